//! What the tests of this input ask alike.

use libtest_mimic::Failed;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::value::string_attribute;

/// An attribute's text.
pub(crate) fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    string_attribute(attributes, key)
}

/// That two are the same.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), Failed> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}").into()) }
}

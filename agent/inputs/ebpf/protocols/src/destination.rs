//! From the name of a destination (subject, queue, topic) to one of low cardinality: `orders.7.paid` is `orders.{id}.paid`.
//!
//! The same guess as for paths. Invariant: at most [`NAME_BYTES_MAX`] bytes and [`PARTS_MAX`] parts come out.

use crate::route::is_identifier;

/// Longer names are cut.
pub(crate) const NAME_BYTES_MAX: usize = 200;
/// Of a template, so that an operation before it fits, too.
const TEMPLATE_BYTES_MAX: usize = 160;
/// Further parts become `*`.
const PARTS_MAX: usize = 8;

/// The template of a name whose parts stand between dots; `amq.gen-3f2a9c81d0` is `amq.gen-{id}`.
pub(crate) fn template(name: &str) -> String {
    let mut template = String::with_capacity(name.len().min(TEMPLATE_BYTES_MAX));
    for (number, part) in name.split('.').enumerate() {
        if number > 0 {
            template.push('.');
        }
        if number == PARTS_MAX || template.len() + part.len() > TEMPLATE_BYTES_MAX {
            template.push('*');
            break;
        }
        // Brokers make names such as `amq.gen-3f2a9c81d0`: a word, then what they drew.
        match part.split_once('-') {
            Some((word, drawn)) if word == "gen" || (!is_identifier(part) && is_identifier(drawn)) => {
                template.push_str(word);
                template.push_str("-{id}");
            }
            _ => template.push_str(if is_identifier(part) { "{id}" } else { part }),
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_become_one_word_and_names_stay() {
        let table = [
            ("orders", "orders"),
            ("orders.7.paid", "orders.{id}.paid"),
            ("device.2c48913c-b29f-11e7-9350-020968147796", "device.{id}"),
            ("amq.gen-Xa9fKq3LmN0pQrStUvWxYz", "amq.gen-{id}"),
            ("tenant-42.mail", "tenant-{id}.mail"),
            ("orders-eu.v2", "orders-eu.v2"),
            ("a.b.c.d.e.f.g.h.i.j", "a.b.c.d.e.f.g.h.*"),
            ("", ""),
        ];
        for (name, expected) in table {
            assert_eq!(template(name), expected, "{name}");
        }
    }

    #[test]
    fn no_name_makes_a_long_template() {
        for name in ["x.".repeat(5_000), "x".repeat(5_000), "é".repeat(100) + "." + &"y".repeat(150)] {
            assert!(template(&name).len() <= TEMPLATE_BYTES_MAX + 2, "{}", template(&name));
        }
    }
}

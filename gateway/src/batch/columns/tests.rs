//! The bytes of columns, written out, and that rows gathered from several requests are those of one.

use super::*;
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    number: i64,
    flag: bool,
    text: &'static str,
    word: &'static str,
    maybe: Option<f64>,
    map: Vec<(&'static str, &'static str)>,
    numbers: Vec<u64>,
    words: Vec<&'static str>,
    maps: Vec<Vec<(&'static str, &'static str)>>,
}

const OF: &[Column] = &[
    ("number", Type::DateTime64),
    ("flag", Type::Bool),
    ("text", Type::String),
    ("word", Type::LowCardinality),
    ("maybe", Type::NullableFloat64),
    ("map", Type::Map),
    ("numbers", Type::Array(&Type::UInt64)),
    ("words", Type::Array(&Type::LowCardinality)),
    ("maps", Type::Array(&Type::Map)),
];

fn one() -> Row {
    Row {
        number: -2,
        flag: true,
        text: "ab",
        word: "x",
        maybe: None,
        map: vec![("k", "v"), ("l", "")],
        numbers: vec![7],
        words: vec![],
        maps: vec![vec![("a", "1")], vec![]],
    }
}

fn two() -> Row {
    Row {
        number: 3,
        flag: false,
        text: "",
        word: "y",
        maybe: Some(1.0),
        map: vec![("l", "w")],
        numbers: vec![],
        words: vec!["q", "q"],
        maps: vec![vec![("b", "2")]],
    }
}

fn columns(rows: &[Row]) -> Columns {
    let mut columns = Columns::new(OF);
    rows.iter().for_each(|row| rows::push(row, &mut columns).unwrap());
    columns
}

#[test]
fn every_kind_of_column_has_its_bytes() {
    let word = |number: u64| number.to_le_bytes();
    let head = |name: &str, of: &str| [&[name.len() as u8], name.as_bytes(), &[of.len() as u8], of.as_bytes()].concat();
    let expected = [
        vec![9, 2],
        head("number", "DateTime64(9)"),
        [(-2i64).to_le_bytes(), 3i64.to_le_bytes()].concat(),
        head("flag", "Bool"),
        vec![1, 0],
        head("text", "String"),
        b"\x02ab\x00".to_vec(),
        head("word", "LowCardinality(String)"),
        [word(1), word(0x600), word(2)].concat(),
        b"\x01x\x01y".to_vec(),
        word(2).to_vec(),
        vec![0, 1],
        head("maybe", "Nullable(Float64)"),
        vec![1, 0],
        [0f64.to_le_bytes(), 1f64.to_le_bytes()].concat(),
        head("map", "Map(LowCardinality(String), String)"),
        [word(1), word(2), word(3), word(0x600), word(2)].concat(),
        b"\x01k\x01l".to_vec(),
        word(3).to_vec(),
        vec![0, 1, 1],
        b"\x01v\x00\x01w".to_vec(),
        head("numbers", "Array(UInt64)"),
        [word(1), word(1), word(7)].concat(),
        head("words", "Array(LowCardinality(String))"),
        [word(1), word(0), word(2), word(0x600), word(1)].concat(),
        b"\x01q".to_vec(),
        word(2).to_vec(),
        vec![0, 0],
        head("maps", "Array(Map(LowCardinality(String), String))"),
        [word(1), word(2), word(3), word(1), word(1), word(2), word(0x600), word(2)].concat(),
        b"\x01a\x01b".to_vec(),
        word(2).to_vec(),
        vec![0, 1],
        b"\x011\x012".to_vec(),
    ];
    assert_eq!(into_native(vec![columns(&[one(), two()])]), expected.concat());
}

#[test]
fn rows_that_were_gathered_are_those_of_one_request() {
    let together = columns(&[one(), two(), two(), one(), two()]);
    let gathered = vec![columns(&[one(), two()]), columns(&[two(), one()]), columns(&[two()])];
    assert_eq!(into_native(gathered), into_native(vec![together]));
}

#[test]
fn a_text_has_one_number_in_whatever_order_they_come() {
    let long = vec![b'x'; 300];
    let texts: [&[u8]; 5] = [b"a", b"", &long, b"b", b"a"];
    let mut dictionary = Dictionary::default();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 2, 1, 3, 3]] {
        for at in order {
            assert_eq!(dictionary.index(texts[at]), [0, 1, 2, 3, 0][at], "{order:?}");
        }
    }
    assert!(dictionary.texts().eq(texts[..4].iter().copied()));
}

#[test]
fn a_value_that_is_repeated_is_there_so_many_times() {
    const EACH: &[Column] = &[("n", Type::UInt64), ("t", Type::String), ("w", Type::LowCardinality), ("m", Type::Map)];
    let add = |data: &mut Data, at: usize, value: &[u8]| match at {
        0 => data.number(&[value[0]; 8]),
        1 => data.hex(value),
        2 => data.word(value),
        _ => {
            data.word(value);
            data.text(value);
            data.end_map(1);
        }
    };
    let (mut one_by_one, mut repeated) = (Columns::new(EACH), Columns::new(EACH));
    for (value, times) in [(b"a".as_slice(), 1), (b"bc", 3), (b"d", 0), (b"a", 300)] {
        for (at, data) in one_by_one.all::<4>().unwrap().iter_mut().enumerate() {
            (0..times).for_each(|_| add(data, at, value));
        }
        for (at, data) in repeated.all::<4>().unwrap().iter_mut().enumerate() {
            data.repeat(times, |data| add(data, at, value));
        }
        one_by_one.end_rows(times);
        repeated.end_rows(times);
    }
    assert!(repeated.all::<3>().is_none());
    assert_eq!(repeated.rows(), 304);
    assert_eq!(into_native(vec![one_by_one]), into_native(vec![repeated]));
}

#[test]
fn indexes_are_as_wide_as_the_dictionary_needs() {
    const WORDS: &[Column] = &[("w", Type::LowCardinality)];
    for (texts, bytes) in [(256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
        let mut columns = Columns::new(WORDS);
        let mut keys = 0;
        for text in 0..texts {
            let text = text.to_string();
            keys += 1 + text.len();
            columns.data[0].word(text.as_bytes());
            columns.end_rows(1);
        }
        let rows_bytes = if texts < 65_536 / 4 { 2 } else { 3 };
        let head = 1 + rows_bytes + "-w".len() + 1 + "LowCardinality(String)".len() + 4 * 8;
        assert_eq!(into_native(vec![columns]).len(), head + keys + texts * bytes, "{texts}");
    }
}

#[test]
fn a_row_of_another_table_is_an_error() {
    #[derive(Serialize)]
    struct Other {
        number: i64,
    }
    let error = rows::push(&Other { number: 1 }, &mut Columns::new(OF)).unwrap_err().to_string();
    assert!(error.contains("other fields"), "{error}");
}

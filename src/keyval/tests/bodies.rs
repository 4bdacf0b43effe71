//! Bodies, good ones and bad ones.

use super::*;

fn refusal(body: &[u8], format: Format) -> String {
    match build_with(body, format, limits(Kind::String), Meta::default()) {
        Err(Refusal::Line(line, why)) => format!("{line}: {why}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn values_of_json_are_as_they_are_written() {
    let body = r#" { "a" : "x y", "b":12.50, "c":-1e400, "d":true , "e":false,"f":"\u00e9\n\"",
        "":"", "g": 0 } "#;
    assert_eq!(refusal(body.as_bytes(), Format::Json), "2: empty key");
    let image = build(&body.replace("\"\":\"\",", ""), Format::Json, Kind::String).unwrap();
    let expected = [
        ("a", "x y"),
        ("b", "12.50"),
        ("c", "-1e400"),
        ("d", "1"),
        ("e", "0"),
        ("f", "é\n\""),
        ("g", "0"),
    ];
    for (key, value) in expected {
        assert_eq!(found(&image, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(found(&image, ""), None);
    assert_eq!(found(&image, "A"), None);
    assert_eq!(pairs(&image).len(), expected.len());
    assert_eq!(Image::of(image.as_slice()).unwrap().count(), 7);
}

#[test]
fn lines_are_keys_with_or_without_a_value() {
    let body = "\u{feff}# comment\r\n\r\n  a\r\nb\t two words \n\n#c\nd 0";
    let image = build(body, Format::Text, Kind::String).unwrap();
    let expected: BTreeMap<String, String> = [("a", "1"), ("b", "two words"), ("d", "0")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    assert_eq!(pairs(&image), expected);
    assert_eq!(refusal(b"a\n\nb\na x\n", Format::Text), "4: duplicate key \"a\"");
    assert_eq!(refusal(b"a\n\xff\n", Format::Text), "2: not UTF-8");
    assert_eq!(refusal(b"a b\0c", Format::Text), "1: zero byte in key or value of \"a\"");
    assert!(build("", Format::Text, Kind::String).is_ok(), "nothing is a content, too");
    assert!(build("{}", Format::Json, Kind::Ip).is_ok());
}

#[test]
fn what_is_no_flat_object_is_refused() {
    for (body, why) in [
        ("", "1: unexpected end"),
        ("[]", "1: not an object"),
        ("{", "1: unexpected end"),
        ("{}x", "1: unexpected data after the object"),
        ("{}{}", "1: unexpected data after the object"),
        ("{\"a\"", "1: unexpected end"),
        ("{\"a\":", "1: unexpected end"),
        ("{\"a\":1", "1: unexpected end"),
        ("{\"a\":\"b", "1: unexpected end"),
        ("{\"a\":\"b\\", "1: unexpected end"),
        ("{\"a\":1,}", "1: a key is expected"),
        ("{,}", "1: a key is expected"),
        ("{\"a\" 1}", "1: \":\" is expected"),
        ("{\"a\":1 \"b\":2}", "1: \",\" or \"}\" is expected"),
        ("{\n\"a\":null}", "2: value of \"a\" is null"),
        ("{\"a\":[1]}", "1: value of \"a\" is an array"),
        ("{\"a\":{\"b\":1}}", "1: value of \"a\" is an object"),
        ("{\"a\":01}", "1: invalid value"),
        ("{\"a\":+1}", "1: invalid value"),
        ("{\"a\":nul}", "1: invalid value"),
        ("{\"a\":True}", "1: invalid value"),
        ("{\"a\":\"\\ud800\"}", "1: invalid string"),
        ("{\"a\":\"\\x\"}", "1: invalid string"),
        ("{\"a\":\"\n\"}", "1: invalid string"),
        ("{\"a\":\"\\u0000\"}", "1: zero byte in key or value of \"a\""),
        ("{\"a\":1,\n\"\\u0061\":2}", "2: duplicate key \"a\""),
        ("{a:1}", "1: a key is expected"),
        ("{'a':1}", "1: a key is expected"),
    ] {
        assert_eq!(refusal(body.as_bytes(), Format::Json), why, "{body}");
    }
    assert_eq!(refusal(b"{\"\xff\":1}", Format::Json), "1: not UTF-8");
    let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
    assert_eq!(refusal(deep.as_bytes(), Format::Json), "1: value of \"a\" is an array");
    let long = format!("{{\"{}\":1}}", "k".repeat(LONGEST_KEY + 1));
    assert!(refusal(long.as_bytes(), Format::Json).ends_with("...\" is longer than 8k"));
    let long = format!("{{\"a\":\"{}\"}}", "v".repeat(LONGEST_VALUE + 1));
    assert_eq!(refusal(long.as_bytes(), Format::Json), "1: value of \"a\" is longer than 1m");
    let long = format!("{{\"a\":\"{}\"}}", "v".repeat(LONGEST_VALUE));
    assert!(build(&long, Format::Json, Kind::String).is_ok());
    let blanks = format!("{{{}\"a\":1}}", "\n".repeat(200_000));
    assert_eq!(
        found(&build(&blanks, Format::Json, Kind::String).unwrap(), "a").as_deref(),
        Some("1")
    );
}

#[test]
fn a_body_that_is_cut_anywhere_is_refused() {
    let body = "{\"a\":\"x\\n\",\"b\":12,\"cé\":true}";
    for end in 0..body.len() {
        assert!(
            build_with(
                body.as_bytes().get(..end).unwrap(),
                Format::Json,
                limits(Kind::String),
                Meta::default()
            )
            .is_err(),
            "{end}"
        );
    }
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let mut random = Random(1);
    let pieces: [&[u8]; 16] = [
        b"{", b"}", b"\"", b"\\", b":", b",", b"1", b"a", b"\n", b" ", b"\xff", b"\0", b"[",
        b"null", b"-", b"\\u00",
    ];
    for _ in 0..5000 {
        let body: Vec<u8> = (0..random.below(20))
            .flat_map(|_| pieces[random.below(16) as usize])
            .copied()
            .collect();
        for kind in Kind::ALL {
            let json = build_with(&body, Format::Json, limits(kind), Meta::default());
            if json.is_ok() {
                assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok(), "{body:?}");
            }
            let _ = build_with(&body, Format::Text, limits(kind), Meta::default());
        }
    }
}

#[test]
fn large_values_take_more_steps_and_no_longer_ones() {
    let value = "x".repeat(100_000);
    let pairs = 40;
    let json = (0..pairs).map(|key| format!("\"{key}\":\"{value}\"")).collect::<Vec<_>>().join(",");
    let text = (0..pairs).map(|key| format!("{key} {value}\n")).collect::<Vec<_>>().concat();
    for (body, format) in [(format!("{{{json}}}"), Format::Json), (text, Format::Text)] {
        let limits = limits(Kind::String);
        let mut build = Build::new(body.into_bytes(), format, limits, Meta::default(), 42);
        let mut steps = 0;
        let image = loop {
            steps += 1;
            if let Some(image) = build.step().unwrap() {
                break image;
            }
        };
        assert!(steps >= pairs, "{format:?}: {steps} steps");
        let mut encoder = Encoder::new(&Meta::default(), When::default());
        let mut steps = 1;
        while encoder.step(Image::of(image.as_slice()).unwrap()).unwrap().is_none() {
            steps += 1;
        }
        assert!(steps >= pairs, "file: {steps} steps");
    }
}

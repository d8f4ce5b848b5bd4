//! Tests the reader with pickles of every protocol and with deliberately malformed pickles.

use super::*;

fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
    Pickle::parse(bytes, 0, "p")
}

/// The call that a pickle requests.
#[track_caller]
fn call<'p>(pickle: &'p Pickle<'p>) -> Call<'p> {
    match pickle.root().kind() {
        Kind::Call(call) => call,
        other => panic!("{other:?}"),
    }
}

fn message(bytes: &[u8]) -> String {
    parse(bytes).expect_err("this pickle must be rejected").to_string()
}

/// `{'a': [1, -2, 300, 70000], 'b': (True, None, 0.5), 'c': 2**70}` written by Python 3's pickle.dumps in each
/// protocol it knows (0 to 5).
const SAME_VALUE: [&[u8]; 6] = [
    b"(dp0\nVa\np1\n(lp2\nI1\naI-2\naI300\naI70000\nasVb\np3\n(I01\nNF0.5\ntp4\nsVc\np5\nL1180591620717411303424L\ns.",
    b"}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00eX\x01\x00\x00\x00bq\x03(I01\nNG?\xe0\x00\x00\x00\x00\x00\x00tq\x04X\x01\x00\x00\x00cq\x05L1180591620717411303424L\nu.",
    b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00eX\x01\x00\x00\x00bq\x03\x88NG?\xe0\x00\x00\x00\x00\x00\x00\x87q\x04X\x01\x00\x00\x00cq\x05\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@u.",
    b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00eX\x01\x00\x00\x00bq\x03\x88NG?\xe0\x00\x00\x00\x00\x00\x00\x87q\x04X\x01\x00\x00\x00cq\x05\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@u.",
    b"\x80\x04\x95<\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00e\x8c\x01b\x94\x88NG?\xe0\x00\x00\x00\x00\x00\x00\x87\x94\x8c\x01c\x94\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@u.",
    b"\x80\x05\x95<\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00e\x8c\x01b\x94\x88NG?\xe0\x00\x00\x00\x00\x00\x00\x87\x94\x8c\x01c\x94\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@u.",
];

#[test]
fn every_protocol_gives_the_same_value() {
    for bytes in SAME_VALUE {
        let pickle = parse(bytes).unwrap();
        assert_eq!(pickle.end(), bytes.len());
        let root = pickle.root();
        let list: Vec<i128> = root.get("a").unwrap().list().unwrap().map(|v| v.int().unwrap()).collect();
        assert_eq!(list, [1, -2, 300, 70000]);
        let [yes, none, half] = root.get("b").unwrap().tuple().unwrap();
        assert!(yes.bool().unwrap() && matches!(none.kind(), Kind::None));
        assert!(matches!(half.kind(), Kind::Float(value) if value == 0.5));
        assert_eq!(root.get("c").unwrap().int().unwrap(), 1 << 70);
        assert_eq!(root.dict().unwrap().len(), 3);
    }
}

#[test]
fn long_integers_have_a_sign() {
    // pickle.dumps of -2**70, -1 (as a LONG1 and a LONG4), 0 and the smallest integer of 16 bytes.
    let least = [&b"\x8a\x10"[..], &[0; 15], b"\x80."].concat();
    let cases: [(&[u8], i128); 5] = [
        (b"\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00\xc0.", -(1 << 70)),
        (b"\x8a\x01\xff.", -1),
        (b"\x8b\x01\x00\x00\x00\xff.", -1),
        (b"\x8a\x00.", 0),
        (&least, i128::MIN),
    ];
    for (bytes, value) in cases {
        assert_eq!(parse(bytes).unwrap().root().int().unwrap(), value);
    }
}

#[test]
fn every_truncation_is_an_error() {
    for bytes in SAME_VALUE {
        for length in 0..bytes.len() {
            message(&bytes[..length]);
        }
    }
}

#[test]
fn no_byte_changed_anywhere_panics() {
    for bytes in SAME_VALUE {
        for position in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.to_vec();
                changed[position] = value;
                let _ = parse(&changed);
            }
        }
    }
}

#[test]
fn python_2_strings_are_bytes_and_read_as_text() {
    // pickle.dumps({'k': u'\xe9\u20ac', 'raw': '\x00\n'}) of Python 2, protocols 0 and 2.
    let old = parse(b"(dp0\nS'k'\np1\nV\xe9\\u20ac\np2\nsS'raw'\np3\nS'\\x00\\n'\np4\ns.").unwrap();
    let new = parse(
        b"\x80\x02}q\x00(U\x01kq\x01X\x05\x00\x00\x00\xc3\xa9\xe2\x82\xacq\x02U\x03rawq\x03T\x02\x00\x00\x00\x00\nu.",
    )
    .unwrap();
    for pickle in [old, new] {
        assert_eq!(pickle.root().get("k").unwrap().text().unwrap(), "é€");
        assert_eq!(pickle.root().get("raw").unwrap().bytes().unwrap().as_ref(), b"\x00\n");
    }
}

#[test]
fn bytes_of_python_3_in_protocol_2() {
    // pickle.dumps(b"\xff\x00", 2)
    let bytes = b"\x80\x02c_codecs\nencode\nq\x00X\x03\x00\x00\x00\xc3\xbf\x00q\x01X\x06\x00\x00\x00latin1q\x02\x86q\x03Rq\x04.";
    assert_eq!(parse(bytes).unwrap().root().bytes().unwrap().as_ref(), b"\xff\x00");
    let too_wide = b"c_codecs\nencode\n(V\\u20ac\nVlatin1\ntR.";
    let error = parse(too_wide).unwrap().root().bytes().unwrap_err().to_string();
    assert!(error.contains("expected characters up to U+00FF"), "{error}");
}

#[test]
fn calls_are_noted_and_not_made() {
    // OrderedDict([('w', 1)]) with an attribute: the form of PyTorch's state dicts; several pickles may follow each other.
    let bytes = b"N.\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00wK\x01u}X\x01\x00\x00\x00mNsb.rest";
    let pickle = Pickle::parse(bytes, 2, "p").unwrap();
    let call = pickle.root().call(&["collections.OrderedDict"]).unwrap();
    assert_eq!((call.args.len(), call.entries.len()), (0, 1));
    assert_eq!(call.entries.get("w").unwrap().int().unwrap(), 1);
    assert!(matches!(call.state.unwrap().get("m").unwrap().kind(), Kind::None));
    assert_eq!(&bytes[pickle.end()..], b"rest");
    let pickle = parse(b"K\x05Q.").unwrap();
    assert!(matches!(pickle.root().kind(), Kind::Persistent(id) if id.int().unwrap() == 5));
}

/// Nothing is looked up and nothing is called: a name is two texts, whatever it names, and a call is data.
#[test]
fn any_name_is_data() {
    for (bytes, name, args) in [
        (&b"cos\nsystem\n(S'true'\ntR."[..], "os.system", 1),
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", "__builtin__.eval", 1),
        (b"\x80\x04\x8c\x08builtins\x94\x8c\x04eval\x94\x93\x8c\x011\x85R.", "builtins.eval", 1),
        (b"\x80\x02cargparse\nNamespace\n)\x81}Vlr\nG?\xb9\x99\x99\x99\x99\x99\x9asb.", "argparse.Namespace", 0),
        // The other ways to make an object: INST, OBJ, NEWOBJ_EX.
        (b"(S'true'\nNios\nsystem\n.", "os.system", 2),
        (b"(cnumpy\ndtype\nNo.", "numpy.dtype", 1),
        (b"\x80\x04cnumpy\ndtype\nN\x85}\x92.", "numpy.dtype", 1),
    ] {
        let pickle = parse(bytes).unwrap();
        let call = call(&pickle);
        assert!(call.is(name) && call.args.len() == args, "{:?}", call.name());
        assert_eq!(call.name().unwrap().to_string(), name);
        assert!(!call.is(&name[1..]) && !call.is(&name[..name.len() - 1]) && !call.is(&name.replace('.', "_")));
    }
    // The result of a call may be called, and be given state once, items and entries.
    let pickle = parse(b"cnumpy\ndtype\n(tR(tR]b(NNe(NNNNu.").unwrap();
    let outer = call(&pickle);
    assert!(outer.name().is_none() && matches!(outer.function.kind(), Kind::Call(inner) if inner.is("numpy.dtype")));
    assert_eq!((outer.items.len(), outer.entries.len(), outer.state.is_some()), (2, 2, true));
    assert_eq!(pickle.root().describe(), "an object made by a function without a name");
    // A long name is not copied, and is cut in messages.
    let long = format!("c{}\nx\n)R.", "m".repeat(100_000));
    assert!(parse(long.as_bytes()).unwrap().root().describe().len() < 300);
    // Names that no pickler writes.
    assert!(message(b"NN\x93.").contains("STACK_GLOBAL expects the texts"));
    assert!(message(b"cnumpy\ndtype\nNR.").contains("tuple of arguments"));
    assert!(message(b"(o.").contains("OBJ expects a class"));
    assert!(message(b"}Nb.").contains("BUILD"));
    assert!(message(b"cnumpy\ndtype\n)RNbNb.").contains("BUILD"));
}

#[test]
fn other_values_are_described() {
    for (bytes, what) in [
        // pickle.dumps({1, 2}), frozenset([1]), 10**60 in two protocols, a lone surrogate.
        (&b"\x80\x04\x8f\x94(K\x01K\x02\x90."[..], "a set of 2"),
        (b"\x80\x04(K\x01\x91\x94.", "a set of 1"),
        (&[&b"\x80\x02\x8a\x1a"[..], &[7; 26], b"."].concat(), "a whole number of more than 16 bytes"),
        (&[&b"\x8b\x00\x00\x01\x00"[..], &[7; 1 << 16], b"."].concat(), "a whole number of more than 16 bytes"),
        (&[&b"L-1"[..], &[b'0'; 60], b"L\n."].concat(), "a whole number of more than 16 bytes"),
        (b"X\x04\x00\x00\x00a\xed\xb2\x80.", "a text that is not UTF-8"),
        (b"\x80\x02\x82\x07.", "a name in Python's extension registry"),
        (b"\x80\x02\x84\x07\x00\x00\x00.", "a name in Python's extension registry"),
        (b"cos\npath\n.", "the name `os.path`"),
    ] {
        assert_eq!(parse(bytes).unwrap().root().describe(), what);
    }
    assert!(message(b"L9z99L\n.").contains("a whole number in decimal"));
    assert!(message(b"\x80\x05\x97.").contains("NEXT_BUFFER is not supported"));
    assert!(message(b"\x80\x06N.").contains("protocol 0 to 5"));
    assert!(message(b")NA.").contains("0x41"));
    assert!(message(b")Na.").contains("APPEND expects a list"));
    assert!(message(b")NNs.").contains("SETITEM expects a dict"));
}

#[test]
fn claimed_lengths_are_checked_before_anything_is_allocated() {
    for bytes in [
        &b"T\xff\xff\xff\xffabc."[..],
        b"X\xff\xff\xff\x7fabc.",
        b"B\xff\xff\xff\x7fabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
        b"\x8b\xff\xff\xff\x7fabc.",
    ] {
        let message = message(bytes);
        assert!(message.starts_with("p, at byte 0: truncated or corrupt pickle: expected"), "{message}");
    }
    // The largest memo index costs one entry, not four billion.
    assert!(parse(b"Nr\xff\xff\xff\xff.").is_ok());
    assert!(message(b"h\x07.").contains("memo entry 7 is fetched before it is stored"));
}

/// 2⁶⁰ values in 5 bytes each, a nesting of a million levels, values that contain themselves: a node for every opcode, in
/// no more time than the length of the file, and nothing recurses when they are dropped.
#[test]
fn sharing_depth_and_self_reference_cost_nothing() {
    let mut pairs = b")q\x00".to_vec();
    pairs.extend(b"h\x00\x86q\x00".repeat(60));
    pairs.push(b'.');
    let pickle = parse(&pairs).unwrap();
    assert_eq!(pickle.nodes.len(), 61);
    let deep = [&b")"[..], &vec![0x85; 1_000_000], b"."].concat();
    assert_eq!(parse(&deep).unwrap().nodes.len(), 1_000_001);
    let nested_lists = [vec![b']'; 1_000_000], vec![b'a'; 999_999], b".".to_vec()].concat();
    assert_eq!(parse(&nested_lists).unwrap().root().list().unwrap().len(), 1);
    assert!(message(&[&b")"[..], &vec![b'N'; MAX_OPERATIONS], b"."].concat()).contains("opcodes"));
    // l = []; l.append(l)   and   t = ([t],)   and a dict that is its own value.
    for bytes in [&b"]q\x00h\x00a."[..], b"]q\x00(h\x00\x85e.", b"}q\x00Nh\x00s.", b"]q\x00h\x00\x85ah\x00\x86."] {
        assert!(parse(bytes).is_ok());
    }
    let pickle = parse(b"]q\x00h\x00a.").unwrap();
    assert_eq!(pickle.root().list().unwrap().get(0).unwrap().id(), pickle.root().id());
}

#[test]
fn the_stack_is_respected() {
    for bytes in
        [&b"."[..], b"0.", b"K\x01\x86.", b"t.", b"N(s.", b"(N(.", b"NN.", b"(N.", b"}(Nu.", b"(Nd.", b"q\x00."]
    {
        message(bytes);
    }
    assert!(parse(b"(0N.").is_ok() && parse(b"(NN1N.").is_ok());
    assert_eq!(parse(b"K\x012\x86.").unwrap().root().tuple::<2>().unwrap()[1].int().unwrap(), 1);
}

#[test]
fn unexpected_values_say_what_was_found_and_where() {
    let pickle = parse(b"]K\x07a.").unwrap();
    let first = pickle.root().list().unwrap().get(0).unwrap();
    assert_eq!(first.text().unwrap_err().to_string(), "p, at byte 1: expected a text, found the number 7");
    assert_eq!(
        pickle.root().tuple::<2>().unwrap_err().to_string(),
        "p, at byte 0: expected a tuple of 2, found a list of 1"
    );
    // A long key is neither printed in full nor decoded for comparison: that would take minutes.
    let shared = |key: &[u8]| {
        let entries = b"h\x00N".repeat(200_000);
        [b"}(", key, b"q\x00N", &entries[..], b"c_codecs\nencode\n(Vz\nVlatin1\ntRK\x05u."].concat()
    };
    let long = "k".repeat(1 << 20);
    for key in [format!("V{long}\n"), format!("c_codecs\nencode\n(V{long}\nVlatin1\ntR")] {
        let bytes = shared(key.as_bytes());
        let pickle = parse(&bytes).unwrap();
        let start = std::time::Instant::now();
        assert_eq!(pickle.root().get("z").unwrap().int().unwrap(), 5);
        assert!(pickle.root().get("y").unwrap_err().to_string().len() < 2000);
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }
    // As in Python, the last of two equal keys counts.
    let twice = parse(b"}(S'k'\nK\x01S'k'\nK\x02u.").unwrap();
    assert_eq!(twice.root().get("k").unwrap().int().unwrap(), 2);
    assert!(twice.root().get("z").unwrap_err().to_string().contains(r#"expected the key "z", found ["k", "k"]"#));
}

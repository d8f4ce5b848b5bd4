//! Checkpoints as other people's trainers write them: objects of any class beside the weights, usual keys, every kind of tensor.

use super::*;

/// Objects as `pickle.dumps` writes them, without the first two bytes and the last one.
const BESIDE: [(&str, &[u8]); 26] = [
    ("argparse.Namespace", b"cargparse\nNamespace\nq\x00)\x81q\x01}q\x02X\x02\x00\x00\x00lrq\x03G?\xb9\x99\x99\x99\x99\x99\x9asb"),
    ("Counter", b"ccollections\nCounter\nq\x00}q\x01(X\x01\x00\x00\x00aq\x02K\x02X\x01\x00\x00\x00bq\x03K\x01u\x85q\x04Rq\x05"),
    ("defaultdict(list)", b"ccollections\ndefaultdict\nq\x00c__builtin__\nlist\nq\x01\x85q\x02Rq\x03X\x01\x00\x00\x00aq\x04]q\x05G?\xf0\x00\x00\x00\x00\x00\x00as"),
    ("deque", b"ccollections\ndeque\nq\x00)K\x05\x86q\x01Rq\x02(K\x01K\x02e"),
    ("set", b"c__builtin__\nset\nq\x00]q\x01X\x01\x00\x00\x00aq\x02a\x85q\x03Rq\x04"),
    ("set", b"\x80\x04\x95\x09\x00\x00\x00\x00\x00\x00\x00\x8f\x94(\x8c\x01a\x94\x90"),
    ("frozenset", b"c__builtin__\nfrozenset\nq\x00]q\x01K\x01a\x85q\x02Rq\x03"),
    ("frozenset", b"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00(K\x01\x91\x94"),
    ("datetime", b"cdatetime\ndatetime\nq\x00c_codecs\nencode\nq\x01X\x0b\x00\x00\x00\x07\xc3\xa8\x01\x01\x00\x00\x00\x00\x00\x00q\x02X\x06\x00\x00\x00latin1q\x03\x86q\x04Rq\x05\x85q\x06Rq\x07"),
    ("Path", b"cpathlib\nPurePosixPath\nq\x00X\x04\x00\x00\x00runsq\x01X\x01\x00\x00\x001q\x02\x86q\x03Rq\x04"),
    ("Path", b"\x80\x04\x95,\x00\x00\x00\x00\x00\x00\x00\x8c\x07pathlib\x94\x8c\x0dPurePosixPath\x94\x93\x94\x8c\x04runs\x94\x8c\x011\x94\x86\x94R\x94"),
    ("torch.float32", b"ctorch\nfloat32\nq\x00"),
    ("torch.device", b"ctorch\ndevice\nq\x00X\x04\x00\x00\x00cudaq\x01K\x00\x86q\x02Rq\x03"),
    ("torch.Size", b"ctorch\nSize\nq\x00K\x01K\x02\x86q\x01\x85q\x02Rq\x03"),
    ("numpy array", b"cnumpy._core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02c_codecs\nencode\nq\x03X\x01\x00\x00\x00bq\x04X\x06\x00\x00\x00latin1q\x05\x86q\x06Rq\x07\x87q\x08Rq\x09(K\x01K\x02\x85q\ncnumpy\ndtype\nq\x0bX\x02\x00\x00\x00f8q\x0c\x89\x88\x87q\x0dRq\x0e(K\x03X\x01\x00\x00\x00<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89h\x03X\x11\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc3\xb0?q\x11h\x05\x86q\x12Rq\x13tq\x14b"),
    ("numpy objects", b"cnumpy._core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02c_codecs\nencode\nq\x03X\x01\x00\x00\x00bq\x04X\x06\x00\x00\x00latin1q\x05\x86q\x06Rq\x07\x87q\x08Rq\x09(K\x01K\x01\x85q\ncnumpy\ndtype\nq\x0bX\x02\x00\x00\x00O8q\x0c\x89\x88\x87q\x0dRq\x0e(K\x03X\x01\x00\x00\x00|q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tq\x10b\x89]q\x11}q\x12atq\x13b"),
    ("numpy generator state", b"}q\x00(X\x0d\x00\x00\x00bit_generatorq\x01X\x05\x00\x00\x00PCG64q\x02X\x05\x00\x00\x00stateq\x03}q\x04(h\x03\x8a\x10\xe3a\x95\xa6\xb7^X\x09-E\x96Y4\xb5\xa1\x1aX\x03\x00\x00\x00incq\x05\x8a\x10\xa9sxD\xbc3\x81X\x82\x1a\xf7:\xdb\xda\x8dAuX\n\x00\x00\x00has_uint32q\x06K\x00X\x08\x00\x00\x00uintegerq\x07K\x00u"),
    ("enum", b"ctrain\nPhase\nq\x00K\x01\x85q\x01Rq\x02"),
    ("a class that refers to itself", b"ctrain\nConfig\nq\x00)\x81q\x01}q\x02(X\x06\x00\x00\x00parentq\x03h\x01X\x02\x00\x00\x00lrq\x04G?\xb9\x99\x99\x99\x99\x99\x9aub"),
    ("partial", b"cfunctools\npartial\nq\x00c__builtin__\nprint\nq\x01\x85q\x02Rq\x03(h\x01K\x01\x85q\x04}q\x05Ntq\x06b"),
    ("a function", b"c__builtin__\nprint\nq\x00"),
    ("a class", b"ctrain\nConfig\nq\x00"),
    ("hparams", b"ctrain\nHparams\nq\x00)\x81q\x01X\x02\x00\x00\x00lrq\x02G?\xb9\x99\x99\x99\x99\x99\x9as"),
    ("large number", b"\x8a\x1a\x00\x00\x00\x00\x00\x00\x00\x10\xd9\x90e\x94,Bb\xd7\x01E\"\x9a\x17&'O\x9f\x00"),
    ("surrogate", b"X\x04\x00\x00\x00a\xed\xb2\x80q\x00"),
    ("complex", b"c__builtin__\ncomplex\nq\x00G?\xf0\x00\x00\x00\x00\x00\x00G@\x00\x00\x00\x00\x00\x00\x00\x86q\x01Rq\x02"),
];

/// A member of the zip format with the twelve floats of [`GOOD`].
fn floats() -> Vec<u8> {
    (0..12).flat_map(|i| (number(i) as f32).to_le_bytes()).collect()
}

/// A checkpoint whose storage `0` has these bytes.
fn file(entries: &[(&str, Vec<u8>)], storage: &[u8]) -> Vec<u8> {
    checkpoint(&dict(entries), &[("a/data/0", storage)])
}

/// A dict without the opcodes around it.
fn inner(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pickle = dict(entries);
    pickle[2..pickle.len() - 1].to_vec()
}

fn weights() -> Vec<u8> {
    inner(&[("w", GOOD.pickle())])
}

/// The tensor of [`GOOD`] with the first `from` in its pickle replaced.
#[track_caller]
fn changed(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(GOOD.pickle()).unwrap();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn what_is_beside_the_weights_need_not_be_understood() {
    for (what, object) in BESIDE {
        let object = object.to_vec();
        // Beside the state dict, in it, and as the class of a dict around it.
        for file in [
            file(&[("x", object.clone()), ("model", weights())], &floats()),
            file(&[("x", object.clone()), ("w", GOOD.pickle())], &floats()),
            old(&dict(&[("model", weights()), ("x", object.clone())]), b"]V0\na", &[(12, &floats())]),
        ] {
            let contents = read(&file).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(contents.tensors.names().eq(["w"]) && contents.unreadable.is_empty(), "{what}");
            check(contents.tensors.get("w"), what, Dtype::F32, &numbers(&[3, 4]));
            assert!(contents.dropped.len() == 1 && contents.dropped[0].0 == "x", "{what}: {:?}", contents.dropped);
            assert!(contents.notes("--key").is_empty() || contents.unwrapped == ["model"], "{what}");
        }
    }
}

/// Subclasses of dict are read as dicts: the pickle sets their items one by one.
#[test]
fn other_kinds_of_dict_hold_weights_too() {
    let entry = [b"Vw\n", &GOOD.pickle()[..], b"s"].concat();
    for class in [
        &b"ccollections\nOrderedDict\n)R"[..],
        b"ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R",
        b"ctrain\nHparams\n)\x81",
        b"cmmengine.config\nConfigDict\n)R",
        b"(itrain\nState\n",
    ] {
        let pickle = [b"\x80\x02", class, &entry, b"."].concat();
        let Contents { tensors, .. } = read(&checkpoint(&pickle, &[("a/data/0", &floats())])).unwrap();
        check(tensors.get("w"), "w", Dtype::F32, &numbers(&[3, 4]));
        // With attributes, which are not looked at.
        let pickle = [b"\x80\x02", class, &entry, b"}Vx\ncos\nsystem\n(Vid\ntRsb."].concat();
        assert_eq!(read(&checkpoint(&pickle, &[("a/data/0", &floats())])).unwrap().tensors, tensors);
    }
    let counter = [b"\x80\x02ctrain\nFrozenDict\n", &weights()[..], b"\x85R."].concat();
    assert_eq!(read(&checkpoint(&counter, &[("a/data/0", &floats())])).unwrap().tensors.len(), 1);
    // In a list or tuple, beside the number of the epoch.
    let tuple = [b"\x80\x02(I7\n", &weights()[..], b"t."].concat();
    assert_eq!(read(&checkpoint(&tuple, &[("a/data/0", &floats())])).unwrap().unwrapped, ["1"]);
}

/// A file with a tensor of this many rows under each of these paths of keys.
fn keyed(paths: &[(&str, &str)]) -> Vec<u8> {
    let mut entries: Vec<(&str, Vec<u8>)> = Vec::new();
    for (path, rows) in paths {
        let keys: Vec<&str> = path.split('.').collect();
        let mut value = inner(&[("w", Described { shape: &[rows, "1"], strides: &["1", "1"], ..GOOD }.pickle())]);
        for key in keys[1..].iter().rev() {
            value = inner(&[(key, value)]);
        }
        entries.push((keys[0], value));
    }
    file(&entries, &floats())
}

#[test]
fn the_state_dict_is_chosen_by_a_fixed_order() {
    for (paths, taken, others) in [
        (&[("model_ema", "4"), ("model", "4")][..], "model", &["model_ema"][..]),
        (&[("model_ema.module", "4"), ("model", "4")], "model", &["model_ema.module"]),
        (&[("teacher", "9"), ("model", "4")], "model", &["teacher"]),
        (&[("student", "4"), ("teacher", "4")], "teacher", &["student"]),
        // The larger ones under other keys, those of less than half the elements are not named.
        (&[("netD", "2"), ("netG", "9")], "netG", &[]),
        (&[("netD", "5"), ("netG", "9")], "netG", &["netD"]),
        (&[("state.model", "3"), ("zoo", "9")], "state.model", &["zoo"]),
        (&[("trunk.model.a.b", "3"), ("net", "1")], "trunk.model.a.b", &[]),
        // What belongs to the optimizer is no candidate.
        (&[("optimizer.state", "9"), ("resnet", "4")], "resnet", &[]),
        (&[("upscaler", "9"), ("amp_scaler", "12"), ("resnet", "4")], "upscaler", &[]),
        (&[("lr_schedulers", "9"), ("callbacks.ema", "9"), ("resnet", "4")], "resnet", &[]),
    ] {
        let contents = read(&keyed(paths)).unwrap();
        assert_eq!(contents.unwrapped.join("."), taken, "{paths:?}");
        assert!(contents.others.iter().map(|(path, _)| path.as_str()).eq(others.iter().copied()), "{paths:?}");
        let line = contents.notes("--key").into_iter().find(|(key, _)| *key == "not taken").map(|(_, line)| line);
        assert_eq!(line.is_some(), !others.is_empty());
        assert!(line.is_none_or(|line| line.contains(&format!("--key {} takes it", others[0]))));
    }
    // A tensor beside the state dict, such as the best accuracy or the weights of the classes.
    let beside = [
        ("classes", GOOD.pickle()),
        ("resnet", weights()),
        ("best", Described { shape: &[], strides: &[], ..GOOD }.pickle()),
    ];
    let contents = read(&file(&beside, &floats())).unwrap();
    assert!(contents.unwrapped.is_empty() && contents.tensors.names().eq(["classes", "best"]));
    let beside = [beside[2].clone(), ("state_dict", weights())];
    assert_eq!(read(&file(&beside, &floats())).unwrap().unwrapped, ["state_dict"]);
}

#[test]
fn a_key_chooses() {
    let bytes = keyed(&[("model", "4"), ("model_ema.module", "3"), ("a.b", "2")]);
    let at = |key: &str| formats::read_bytes(Path::new("f"), &bytes, Some(key)).map_err(|error| error.to_string());
    for (key, rows) in [("model", 4), ("model_ema.module", 3), ("model_ema", 3), ("a", 2), ("", 4)] {
        assert_eq!(at(key).unwrap().tensors.get("w").unwrap().shape(), [rows, 1], "{key}");
    }
    assert_eq!(at("a").unwrap().unwrapped, ["a", "b"]);
    assert!(at("a").unwrap().dropped.iter().any(|(key, _)| key == "model"));
    assert_eq!(at("a.b.w").unwrap().tensors.get(npy::UNNAMED).unwrap().shape(), [2, 1]);
    assert!(at("emma").unwrap_err().contains("expected the key `emma`, found model, model_ema, a"));
    assert!(at("model_ema.x").unwrap_err().contains("expected the key `x` under `model_ema`, found module"));
    // A key with points, the index of a list, a key that is a number.
    let list = [b"]", &weights()[..], b"a", &weights(), b"a"].concat();
    let numbered = [b"}I3\n", &weights()[..], b"s"].concat();
    let bytes = file(&[("a.b", weights()), ("list", list), ("n", numbered)], &floats());
    for key in ["a.b", "list.1", "n.3"] {
        assert_eq!(formats::read_bytes(Path::new("f"), &bytes, Some(key)).unwrap().tensors.len(), 1, "{key}");
    }
    let npy = formats::read_bytes(Path::new("f"), &npy_of("3,", b"abc"), Some("a")).unwrap_err().to_string();
    assert!(npy.contains("found a file without keys"), "{npy}");
}

#[test]
fn every_kind_of_tensor() {
    let negated = numbers(&[3, 4]).mapv(|value| -value);
    let end = "I00\n}tR";
    // (storage, .., requires_grad, hooks, metadata) and a parameter around it, with attributes, and a subclass.
    let args = changed("ctorch._utils\n_rebuild_tensor_v2\n", "");
    let args = &args[..args.len() - 1];
    let from_type =
        [b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctrain\nMine\n", args, b"NtR"];
    let parameter = |tensor: &[u8]| {
        [b"ctorch._utils\n_rebuild_parameter_with_state\n(", tensor, b"\x88}}Vfoo\ncos\nsystem\n(Vid\ntRstR"].concat()
    };
    let v3 = changed("_v2", "_v3");
    let v3 = String::from_utf8(v3).unwrap().replace("ctorch\nFloatStorage", "ctorch.storage\nUntypedStorage");
    let v3 = v3.replace("L12L", "L48L").replace(end, "I00\n}ctorch\nfloat32\ntR").into_bytes();
    for (what, tensor, values) in [
        ("negative", changed(end, "I00\n}}Vneg\nI01\nstR"), &negated),
        ("negative parameter", parameter(&changed(end, "I00\n}}Vneg\nI01\nstR")), &negated),
        ("not negative", changed(end, "I00\n}}(Vneg\nI00\nVconj\nI00\nutR"), &numbers(&[3, 4])),
        ("no metadata", changed(end, "I00\n}NtR"), &numbers(&[3, 4])),
        ("attributes", parameter(&GOOD.pickle()), &numbers(&[3, 4])),
        ("subclass", from_type.concat(), &numbers(&[3, 4])),
        ("untyped storage", v3, &numbers(&[3, 4])),
    ] {
        for bytes in [
            file(&[("w", tensor.clone())], &floats()),
            old(
                &dict(&[("w", tensor.clone())]),
                b"]V0\na",
                &[(if what == "untyped storage" { 48 } else { 12 }, &floats())],
            ),
        ] {
            let contents = read(&bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            check(contents.tensors.get("w"), what, Dtype::F32, values);
        }
    }
}

/// Tensors that cannot be read are named with what to do; where they are not needed, they do not spoil the file.
#[test]
fn tensors_that_are_not_read() {
    let end = "I00\n}tR";
    let call = |name: &str| {
        format!("c{}\n{}\n(NtR", name.rsplit_once('.').unwrap().0, name.rsplit_once('.').unwrap().1).into_bytes()
    };
    for (tensor, expected) in [
        (changed(end, "I00\n}}Vconj\nI01\nstR"), "the property `conj`, which is not known: save `tensor.clone()`"),
        (call("torch._utils._rebuild_sparse_tensor"), "a sparse tensor: save `tensor.to_dense()`"),
        (call("torch._utils._rebuild_qtensor"), "a quantized tensor: save `tensor.dequantize()`"),
        (call("torch._utils._rebuild_meta_tensor_no_storage"), "a tensor of the device `meta`"),
        (call("torch._utils._rebuild_device_tensor_from_numpy"), "a tensor of another device: save `tensor.cpu()`"),
        (call("torch.nn.parameter.UninitializedParameter"), "a parameter without elements"),
        (
            b"ctorch._utils\n_rebuild_parameter\n(cbnb\nInt8\n)RI01\n}tR".to_vec(),
            "a parameter whose tensor is an object made by `bnb.Int8`: save `parameter.data`",
        ),
        (call("torch.distributed.tensor.DTensor"), "made by `torch.distributed.tensor.DTensor`, a class of tensors"),
        (changed("FloatStorage", "QInt32Storage"), "a tensor of qint32, which is not read: save `tensor.float()`"),
    ] {
        let bytes = file(&[("v", tensor.clone()), ("w", GOOD.pickle())], &floats());
        let contents = read(&bytes).unwrap();
        assert!(contents.tensors.names().eq(["w"]) && contents.dropped.is_empty());
        let why = contents.clone().complete(Path::new("f")).unwrap_err().to_string();
        assert!(why.contains(expected) && why.contains(" v, "), "{why}");
        let network = resnet_by_hand::Error::Format { path: "f".into(), offset: None, message: "missing v".into() };
        let network = contents.explain(network).to_string();
        assert!(network.contains("missing v") && network.contains(expected), "{network}");
        // Alone they are no weights.
        refused(&file(&[("v", tensor)], &floats()), expected);
    }
    // An object with such a name that is no tensor is left out.
    let bytes = file(&[("p", call("train.TrainParams")), ("w", GOOD.pickle())], &floats());
    assert_eq!(read(&bytes).unwrap().dropped, [("p".into(), "an object made by `train.TrainParams`".into())]);
    // Whole numbers of a type that is not read are no weights.
    let int16 = Described { class: "ShortStorage", key: "1", ..GOOD }.pickle();
    let contents = read(&file(&[("steps", int16), ("w", GOOD.pickle())], &floats())).unwrap();
    assert_eq!(contents.dropped, [("steps".into(), "a tensor of int16, which is not read".into())]);
}

#[test]
fn whole_models_are_refused_with_the_lines_to_run() {
    let attributes = [b"}(V_parameters\n}V_modules\n}V_buffers\n", &weights()[..], b"u"].concat();
    let class: [&[u8]; 2] = [b"cmodels\nNet\n", b"(Vmodule\ncmodels\nNet\nVnet.py\nVclass Net: ...\ntQ"];
    for class in class {
        let model = [class, b")\x81", &attributes, b"b"].concat();
        let whole = [b"\x80\x02", &model[..], b"."].concat();
        let accuracy = Described { shape: &[], strides: &[], ..GOOD }.pickle();
        let beside = dict(&[("best", accuracy), ("net", model.clone()), ("priors", GOOD.pickle())]);
        for (pickle, load) in [(&whole, "False)\n"), (&beside, "False)[\"net\"]\n")] {
            for bytes in [checkpoint(pickle, &[("a/data/0", &floats())]), old(pickle, b"]V0\na", &[(12, &floats())])] {
                refused(&bytes, "found a whole model, `models.Net`");
                refused(&bytes, &format!("model = torch.load(\"f\", map_location=\"cpu\", weights_only={load}"));
                refused(&bytes, "torch.save(model.state_dict(), \"f-state-dict.pth\")");
            }
        }
        // Beside a state dict a whole model is left out like anything else.
        assert!(
            read(&file(&[("net", model), ("state_dict", weights())], &floats())).unwrap().unwrapped == ["state_dict"]
        );
    }
    refused(&archive(&[("m/models/model.json", b"{}")]), "torch.export.load(\"f\").module()");
    let arrays = inner(&[("w", BESIDE[14].1.to_vec())]);
    refused(&file(&[("model", arrays)], &floats()), "in model: w (a NumPy array)");
}

#[test]
fn arrays_of_numpy_beside_the_weights() {
    let npy = |descr: &str, fortran: &str, shape: &str, data: &[u8]| {
        let header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': ({shape}), }}\n");
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    };
    // 1, 2, 3, 4 in bfloat16, column by column.
    let bf16 = npy("'<V2'", "True", "2, 2", &[0x80, 0x3f, 0, 0x40, 0x40, 0x40, 0x80, 0x40]);
    let mut members = vec![("w.npy", bf16.clone())];
    for (name, descr) in [
        ("int16.npy", "'<i2'"),
        ("uint32.npy", "'<u4'"),
        ("texts.npy", "'<U7'"),
        ("objects.npy", "'|O'"),
        ("records.npy", "[('a', '<f4'), ('b', '<i4', (2,)), ('c', [('d', '|S3')])]"),
        ("times.npy", "'<M8[D]'"),
    ] {
        // Not even their sizes matter.
        members.push((name, npy(descr, "False", "3,", b"cos\nsystem\n(S'id'\ntR.")));
    }
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    let contents = read(&archive(&members)).unwrap();
    check(contents.tensors.get("w"), "w", Dtype::BF16, &array![[1.0, 3.0], [2.0, 4.0]].into_dyn());
    assert!(contents.tensors.len() == 1 && contents.dropped.len() == 6 && contents.unreadable.is_empty());
    assert_eq!(contents.dropped[3], ("objects".into(), "an array of Python objects, which are not unpickled".into()));
    assert!(contents.notes("--key")[0].1.contains("read as bfloat16"), "{:?}", contents.notes("--key"));
    let float8 = npy("'<f1'", "False", "1,", b"x");
    let contents = read(&archive(&[("w.npy", &bf16), ("v.npy", &float8), ("notes.txt", b"")])).unwrap();
    assert_eq!((contents.tensors.len(), contents.unreadable.len(), contents.dropped.len()), (1, 1, 1));
    assert!(contents.complete(Path::new("f")).unwrap_err().to_string().contains("found v, an array of `<f1`"));
    // The size of an array that is read does matter.
    refused(
        &archive(&[("w.npy", &bf16[..bf16.len() - 1])]),
        "expected the elements of [2, 2] bfloat16, 8 bytes, found 7",
    );
}

#[test]
fn tensors_of_safetensors_that_are_not_read() {
    let tensor = |name: &str, dtype: &str, from: usize, to: usize| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":[2],"data_offsets":[{from},{to}]}}"#)
    };
    let header =
        format!("{{{},{},{}}}", tensor("a", "F32", 0, 8), tensor("b", "I16", 8, 12), tensor("c", "F8_E4M3", 12, 14));
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 14]].concat();
    let contents = read(&bytes).unwrap();
    assert!(contents.tensors.names().eq(["a"]));
    assert_eq!((&contents.dropped[0].0[..], &contents.unreadable[0].0[..]), ("b", "c"));
    assert!(formats::safetensors::read_bytes(Path::new("f"), &bytes).is_err());
}

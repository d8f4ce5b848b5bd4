//! Files as PyTorch, NumPy and safetensors write them, value by value; files with wrong claims; files with code to execute.

use ndarray::{Array2, ArrayD, IxDyn, array};
use resnet_by_hand::formats::{self, Contents, Format, npy, torch};
use resnet_by_hand::tensors::{Dtype, Tensor, Tensors, Values};
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

mod trainers;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/library/formats").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read(bytes: &[u8]) -> Result<Contents, String> {
    formats::read_bytes(Path::new("f"), bytes, None).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let message = read(bytes).expect_err("it should have been rejected");
    assert!(message.starts_with("f"), "{message}");
    assert!(message.contains(expected), "expected `{expected}` in\n{message}");
}

/// As in `make_fixtures.py`.
fn number(i: usize) -> f64 {
    ((i * 37 % 81) as f64 - 40.0) / 4.0
}

fn numbers(shape: &[usize]) -> ArrayD<f64> {
    let count = shape.iter().product();
    ArrayD::from_shape_vec(IxDyn(shape), (0..count).map(number).collect()).unwrap()
}

/// The contents of `state_dict()` of `make_fixtures.py`: name, type, values.
fn expected() -> Vec<(&'static str, Dtype, ArrayD<f64>)> {
    let base: Array2<f64> = numbers(&[4, 6]).into_dimensionality().unwrap();
    vec![
        ("f32", Dtype::F32, numbers(&[2, 3, 2])),
        ("f64", Dtype::F64, numbers(&[3, 2])),
        ("f16", Dtype::F16, numbers(&[5])),
        ("bf16", Dtype::BF16, numbers(&[5])),
        ("i64", Dtype::I64, numbers(&[4]).mapv(f64::trunc)),
        ("i32", Dtype::I32, numbers(&[4]).mapv(f64::trunc)),
        ("u8", Dtype::U8, numbers(&[4]).mapv(|value| value.abs().trunc())),
        ("bool", Dtype::Bool, array![1.0, 0.0, 1.0].into_dyn()),
        ("scalar", Dtype::F32, ndarray::arr0(-2.5).into_dyn()),
        ("counter", Dtype::I64, ndarray::arr0(7.0).into_dyn()),
        ("empty", Dtype::F32, Array2::zeros((0, 3)).into_dyn()),
        ("transposed", Dtype::F32, base.t().to_owned().into_dyn()),
        ("every second", Dtype::F32, base.slice(ndarray::s![1.., ..;2]).to_owned().into_dyn()),
        ("shared", Dtype::F32, base.clone().into_dyn()),
        ("expanded", Dtype::F32, Array2::from_elem((3, 2), base[[0, 1]]).into_dyn()),
        ("parameter", Dtype::F32, numbers(&[3])),
    ]
}

#[track_caller]
fn check(tensor: Option<&Tensor>, name: &str, dtype: Dtype, values: &ArrayD<f64>) {
    let tensor = tensor.unwrap_or_else(|| panic!("no tensor `{name}`"));
    assert_eq!(tensor.dtype(), dtype, "{name}");
    assert_eq!(tensor.to_f64(), values, "{name}");
}

#[test]
fn both_formats_of_pytorch() {
    for (file, format) in [("zip.pth", Format::Torch), ("old.pth", Format::OldTorch)] {
        let contents = read(&fixture(file)).unwrap();
        assert_eq!((contents.format, contents.unwrapped.len(), contents.dropped.len()), (format, 0, 0));
        let expected = expected();
        assert!(contents.tensors.names().eq(expected.iter().map(|(name, ..)| *name)), "{file}: the order");
        for (name, dtype, values) in &expected {
            check(contents.tensors.get(name), &format!("{file}: {name}"), *dtype, values);
        }
    }
}

#[test]
fn checkpoints_are_unwrapped_and_what_is_left_out_is_named() {
    for file in ["checkpoint.pth", "checkpoint-old.th"] {
        let Contents { tensors, unwrapped, dropped, .. } = read(&fixture(file)).unwrap();
        assert_eq!(unwrapped, ["state_dict"], "{file}");
        assert!(tensors.names().eq(["module.f32", "module.f64"]), "{file}");
        check(tensors.get("module.f64"), file, Dtype::F64, &numbers(&[3, 2]));
        let dropped: Vec<(&str, &str)> = dropped.iter().map(|(key, what)| (key.as_str(), what.as_str())).collect();
        assert_eq!(
            dropped[..4],
            [
                ("epoch", "the number 7"),
                ("arch", "the text \"resnet20\""),
                ("best_prec1", "the float 91.73"),
                ("best", "a tensor"),
            ]
        );
        assert!(dropped[4].0 == "score" && dropped[4].1.contains("scalar"), "{dropped:?}");
    }
    let module = read(&fixture("module.pt")).unwrap().tensors;
    check(module.get("weight"), "weight", Dtype::F32, &numbers(&[2, 3]));
    let single = read(&fixture("tensor.pt")).unwrap().tensors;
    check(single.get(npy::UNNAMED), "tensor", Dtype::F32, &numbers(&[2, 2]));
    assert_eq!(single.len(), 1);
}

#[test]
fn every_array_of_numpy() {
    for file in ["stored.npz", "deflated.npz"] {
        let Contents { tensors, format, .. } = read(&fixture(file)).unwrap();
        assert_eq!(format, Format::Npz);
        let whole = numbers(&[4]).mapv(f64::trunc);
        for (name, dtype, values) in [
            ("f32", Dtype::F32, numbers(&[2, 3, 2])),
            ("f64 fortran", Dtype::F64, numbers(&[3, 2])),
            ("f16", Dtype::F16, numbers(&[5])),
            ("i64", Dtype::I64, whole.clone()),
            ("i32", Dtype::I32, whole.clone()),
            ("u8", Dtype::U8, numbers(&[4]).mapv(|value| value.abs().trunc())),
            ("bool", Dtype::Bool, array![1.0, 0.0, 1.0].into_dyn()),
            ("f32 big", Dtype::F32, numbers(&[2, 3])),
            ("f64 big fortran", Dtype::F64, numbers(&[2, 3, 2])),
            ("i64 big", Dtype::I64, whole),
            ("scalar", Dtype::F32, ndarray::arr0(-2.5).into_dyn()),
            ("empty", Dtype::F32, Array2::zeros((0, 3)).into_dyn()),
        ] {
            check(tensors.get(name), name, dtype, &values);
        }
        // 10,000 bytes of zeros in about thirty.
        let zeros = tensors.get("zeros").map(Tensor::len);
        assert_eq!((tensors.len(), zeros), if file == "stored.npz" { (12, None) } else { (13, Some(2500)) });
    }
    let Contents { tensors, format, .. } = read(&fixture("fortran.npy")).unwrap();
    check(tensors.get(npy::UNNAMED), "npy", Dtype::F64, &numbers(&[3, 2]));
    assert_eq!(format, Format::Npy);
}

#[test]
fn every_type_of_safetensors() {
    let tensors = read(&fixture("all.safetensors")).unwrap().tensors;
    assert_eq!(tensors.len(), expected().len());
    for (name, dtype, values) in expected() {
        check(tensors.get(name), name, dtype, &values);
    }
    assert_eq!(tensors.metadata.get("format").map(String::as_str), Some("pt"));
}

#[test]
fn what_is_written_is_read_back_and_always_the_same_bytes() {
    // As in memory: widened types stay wide.
    let mut tensors = Tensors::new();
    for (name, tensor) in read(&fixture("zip.pth")).unwrap().tensors.iter() {
        match tensor.values().clone() {
            Values::F32(array) => tensors.insert(name, array),
            Values::F64(array) => tensors.insert(name, array),
            Values::I64(array) => tensors.insert(name, array),
            Values::U8(array) => tensors.insert(name, array),
        }
    }
    tensors.insert("special", array![f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 2.0]);
    // The fuzz target found an npz that was taken for an exported program.
    tensors.insert("models/model.json", array![1.0f32]);
    let folder = std::env::temp_dir().join(format!("resnet-by-hand-formats-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for extension in ["safetensors", "pth", "pt", "th", "npz", "NPZ"] {
        let path = folder.join(format!("t.{extension}"));
        formats::write(&path, &tensors).unwrap();
        assert_eq!(formats::read(&path).unwrap(), tensors, "{extension}");
        let bytes = std::fs::read(&path).unwrap();
        formats::write(&path, &formats::read(&path).unwrap()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{extension}");
        assert!(!folder.join(format!("t.{extension}.tmp")).exists());
    }
    let mut one = Tensors::new();
    one.insert("x", array![[1i64, 2]]);
    formats::write(&folder.join("x.npy"), &one).unwrap();
    assert_eq!(formats::read(&folder.join("x.npy")).unwrap().get(npy::UNNAMED), one.get("x"));
    let error = formats::write(&folder.join("all.npy"), &tensors).unwrap_err().to_string();
    assert!(error.contains("holds one array, not 18"), "{error}");
    for wrong in ["t.onnx", "t", "t.npy.gz"] {
        let error = formats::write(&folder.join(wrong), &tensors).unwrap_err().to_string();
        assert!(error.contains("expected one of the extensions .safetensors, .pth"), "{error}");
        assert!(!folder.join(wrong).exists());
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn other_files_are_refused_with_their_first_bytes() {
    refused(b"", "found an empty file");
    refused(b"hello, world", "expected safetensors, a checkpoint of PyTorch, npz or npy, found the bytes [68, 65, 6c");
    // A pickle, but not PyTorch's; an archive, but of no known format.
    refused(
        b"\x80\x02}q\x00.",
        "found a pickle that `torch.save` did not write: save the state dict with `torch.save`",
    );
    refused(b"\x80\x02}q\x00", "found the bytes [80, 02");
    for (bytes, what) in [
        (&b"\n<!DOCTYPE html><html>not found"[..], "a web page: the download failed"),
        (b"<HTML>", "a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a pointer of Git LFS, without the file: run `git lfs pull`",
        ),
        (b"\x1f\x8b\x08\x00", "a file compressed by gzip: unpack it first"),
        (b"\x08\x07\x12\x07pytorch", "ONNX, which is only written"),
        (b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it: save its tensors"),
        (b"{\"weight_map\": {}}", "JSON, a text"),
        (&[&[b'a'; 257][..], b"ustar"].concat(), "a tar archive: unpack it first"),
    ] {
        refused(bytes, &format!("expected safetensors, a checkpoint of PyTorch, npz or npy, found {what}"));
    }
    let whole = archive(&[("a/data.pkl", b"}.")]);
    refused(&whole[..whole.len() - 22], "found one without its end: it was not copied or downloaded completely");
    refused(&archive(&[("readme.txt", b"")]), "found readme.txt, a member that is not an array NAME.npy");
}

// ---- Archives with wrong claims --------------------------------------------------------------------------------------

fn archive_as(method: CompressionMethod, members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    archive_as(CompressionMethod::Stored, members)
}

/// The offset of the `nth` occurrence of `pattern`, from 0.
fn find(bytes: &[u8], pattern: &[u8], nth: usize) -> usize {
    bytes.windows(pattern.len()).enumerate().filter(|(_, window)| *window == pattern).nth(nth).expect("it is there").0
}

fn npy_of(shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape}), }}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn archives_that_claim_more_than_they_hold_are_refused() {
    // A member of 100 MB of zeros in 100 kB whose header describes an array of ten bytes: rejected by its header.
    let bomb = archive_as(CompressionMethod::Deflated, &[("a.npy", &npy_of("10,", &vec![0; 100_000_000]))]);
    assert!(bomb.len() < 110_000);
    refused(&bomb, "expected the elements of [10] uint8, 10 bytes, found 100000000 bytes");
    // And before it is unpacked: otherwise the error would be about damage further on.
    let mut damaged = bomb.clone();
    damaged[bomb.len() / 2..][..100].fill(0xff);
    refused(&damaged, "expected the elements of [10] uint8, 10 bytes, found 100000000 bytes");

    // A directory that claims four gigabytes, for a stored and for a deflated member.
    let directory = |bytes: &[u8]| find(bytes, b"PK\x01\x02", 0);
    for (method, expected) in [
        (CompressionMethod::Stored, "found a claimed size of 4294967294"),
        (CompressionMethod::Deflated, "found a claimed size of 4294967294"),
    ] {
        let mut bytes = archive_as(method, &[("a.npy", &npy_of("4294967200,", &[7; 50]))]);
        let at = directory(&bytes) + 24;
        bytes[at..at + 4].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff]);
        refused(&bytes, expected);
    }
    // A claim of one byte less, and a wrong checksum.
    let good = archive(&[("a.npy", &npy_of("3,", b"abc"))]);
    assert_eq!(read(&good).unwrap().tensors.get("a"), Some(&Tensor::from(array![97u8, 98, 99])));
    let mut bytes = good.clone();
    bytes[directory(&good) + 16] ^= 1;
    refused(&bytes, "hecksum");
    let mut bytes = good.clone();
    let at = find(&bytes, b"abc", 0);
    bytes[at] = b'x';
    refused(&bytes, "hecksum");

    // An end record of the 64-bit extension that claims a billion members.
    let mut bytes = good[..good.len() - 22].to_vec();
    let start = bytes.len() as u64;
    bytes.extend(b"PK\x06\x06");
    bytes.extend(44u64.to_le_bytes());
    bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for field in [1_000_000_000u64, 1_000_000_000, 46_000_000_000, directory(&good) as u64] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(b"PK\x06\x07\x00\x00\x00\x00");
    bytes.extend(start.to_le_bytes());
    bytes.extend([1, 0, 0, 0]);
    bytes.extend(b"PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00");
    refused(&bytes, "expected a zip archive of at most 1 members, found a claimed number of 1000000000");
}

#[test]
fn archives_with_doubled_or_shared_members_are_refused() {
    let member = npy_of("3,", b"abc");
    let mut bytes = archive(&[("a.npy", &member), ("b.npy", &member)]);
    // The second member's name becomes the first one's: in its own header and in the directory.
    for nth in [0, 1] {
        let at = find(&bytes, b"b.npy", 0);
        bytes[at] = b'a';
        assert!(nth == 0 || !bytes.windows(5).any(|window| window == b"b.npy"));
    }
    refused(&bytes, "expected every member of the archive once");
    // The second entry of the directory points to the first member's bytes.
    let mut bytes = archive(&[("a.npy", &member), ("b.npy", &member)]);
    let at = find(&bytes, b"PK\x01\x02", 1) + 42;
    bytes[at..at + 4].copy_from_slice(&[0; 4]);
    refused(&bytes, "");
    assert!(read(&bytes).unwrap_err().contains("share bytes"));
}

// ---- Pickles with wrong claims ---------------------------------------------------------------------------------------

/// A tensor as a pickle describes it, in text opcodes.
struct Described<'a> {
    class: &'a str,
    key: &'a str,
    len: &'a str,
    offset: &'a str,
    shape: &'a [&'a str],
    strides: &'a [&'a str],
}

/// Twelve floats as a matrix of three rows.
const GOOD: Described<'static> =
    Described { class: "FloatStorage", key: "0", len: "12", offset: "0", shape: &["3", "4"], strides: &["4", "1"] };

impl Described<'_> {
    fn pickle(&self) -> Vec<u8> {
        let whole = |value: &&str| format!("L{value}L\n");
        let tuple = |values: &[&str]| format!("({}t", values.iter().map(whole).collect::<String>());
        let Described { class, key, len, offset, shape, strides } = self;
        let [len, offset] = [whole(len), whole(offset)];
        let id = format!("(Vstorage\nctorch\n{class}\nV{key}\nVcpu\n{len}tQ");
        let (shape, strides) = (tuple(shape), tuple(strides));
        format!("ctorch._utils\n_rebuild_tensor_v2\n({id}{offset}{shape}{strides}I00\n}}tR").into_bytes()
    }

    /// A checkpoint of the zip format with this one tensor.
    fn checkpoint(&self, storage: &[u8]) -> Vec<u8> {
        checkpoint(&dict(&[("w", self.pickle())]), &[("a/data/0", storage)])
    }
}

fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}".to_vec();
    for (name, value) in entries {
        pickle.extend(format!("V{name}\n").bytes());
        pickle.extend(value);
        pickle.push(b's');
    }
    pickle.push(b'.');
    pickle
}

fn checkpoint(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    archive(&[&[("a/data.pkl", pickle)][..], storages].concat())
}

#[test]
fn tensors_that_leave_their_storage_are_refused() {
    let storage: Vec<u8> = (0..12).flat_map(|i| (number(i) as f32).to_le_bytes()).collect();
    let good = read(&GOOD.checkpoint(&storage)).unwrap();
    check(good.tensors.get("w"), "w", Dtype::F32, &numbers(&[3, 4]));

    let most = "9223372036854775807";
    for described in [
        Described { offset: "1", ..GOOD },
        Described { strides: &["5", "1"], ..GOOD },
        Described { strides: &["4", "2"], ..GOOD },
        Described { shape: &["4", "4"], ..GOOD },
        Described { shape: &[most, most], ..GOOD },
        Described { shape: &[most, most], strides: &["0", "0"], ..GOOD },
        Described { strides: &[most, most], ..GOOD },
        Described { offset: "18446744073709551615", ..GOOD },
        Described { offset: "12", shape: &[], strides: &[], ..GOOD },
    ] {
        refused(&described.checkpoint(&storage), "expected a tensor inside its storage of 12 elements");
    }
    for (described, expected) in [
        (Described { offset: "-1", ..GOOD }, "expected a size, found the number -1"),
        (Described { shape: &["-3", "-4"], ..GOOD }, "expected a size, found the number -3"),
        (Described { strides: &["4"], ..GOOD }, "expected 2 strides, found 1"),
        (Described { class: "QuadStorage", ..GOOD }, "expected a class of storages, such as torch.FloatStorage"),
        (
            Described { class: "ComplexFloatStorage", len: "12", ..GOOD },
            "found w, a tensor of complex64, which is not read",
        ),
        (Described { class: "Size", ..GOOD }, "expected a class of storages"),
        (Described { class: "DoubleStorage", ..GOOD }, "expected 12 float64 in the storage \"0\", found 48 bytes"),
        (Described { key: "1", ..GOOD }, "f: a/data/1: expected this member in the archive, found none"),
        (Described { key: "../../etc/passwd", ..GOOD }, "expected this member in the archive, found none"),
        (Described { len: "13", ..GOOD }, "expected 13 float32 in the storage \"0\", found 48 bytes"),
        (Described { len: "1000000000000", offset: "999999", ..GOOD }, "expected 1000000000000 float32"),
    ] {
        refused(&described.checkpoint(&storage), expected);
    }
    refused(&GOOD.checkpoint(&storage[1..]), "found 47 bytes");
}

#[test]
fn expanded_and_shared_storages_are_bounded() {
    let expanded =
        |count: &str| Described { len: "1", shape: &[count], strides: &["0"], ..GOOD }.checkpoint(&1f32.to_le_bytes());
    let tensor = read(&expanded("100000")).unwrap().tensors;
    assert_eq!(tensor.get("w").unwrap().to_f64(), ArrayD::from_elem(IxDyn(&[100_000]), 1.0));
    // 2²⁰ bytes and 16 for each of the storage's 4: 262,160 elements are the most.
    assert!(read(&expanded("262160")).is_ok());
    for count in ["262161", "1000000000", "1000000000000000000"] {
        refused(&expanded(count), "expected tensors of at most 1048640 bytes");
    }
    // Half precision takes twice its bytes in memory, and many tensors of one storage count together.
    let half = |count: usize| {
        let size = (1 << 20).to_string();
        let one = Described { class: "HalfStorage", len: &size, shape: &[&size], strides: &["1"], ..GOOD }.pickle();
        let names: Vec<String> = (0..count).map(|i| format!("w{i}")).collect();
        let entries: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), one.clone())).collect();
        checkpoint(&dict(&entries), &[("a/data/0", &vec![0; 1 << 21])])
    };
    assert_eq!(read(&half(8)).unwrap().tensors.len(), 8);
    refused(&half(9), "storages shared or expanded too often");
}

/// A pickle of a few bytes can refer to a long name or a long list of lengths any number of times.
#[test]
fn names_and_axes_are_bounded() {
    let storage = [0; 48];
    let members = [("a/data/0", &storage[..])];
    let (longest, longer) = ("k".repeat(1024), "k".repeat(1025));
    assert!(read(&checkpoint(&dict(&[(&longest, GOOD.pickle())]), &members)).is_ok());
    refused(
        &checkpoint(&dict(&[(&longer, GOOD.pickle())]), &members),
        "found no tensor: a key of 1025 bytes instead of at most 1024 (a tensor)",
    );
    // The fuzz target found a name that was written and not read.
    let written = |name: &str| {
        let mut tensors = Tensors::new();
        tensors.insert(name, array![1.0f32]);
        formats::to_bytes(Path::new("f.pth"), &tensors)
    };
    assert!(read(&written(&longest).unwrap()).is_ok());
    let message = written(&longer).unwrap_err().to_string();
    assert_eq!(message, "f.pth: expected names of at most 1024 bytes, as they are read, found one of 1025");
    // 50 kB that would become 134 MB of names of entries that are left out.
    let shared = format!("}}(V{}\np0\nN{}Vw\n", "k".repeat(1 << 15), "g0\nN".repeat(1 << 12));
    let shared = [shared.as_bytes(), &GOOD.pickle(), b"u."].concat();
    for file in [checkpoint(&shared, &members), old(&shared, b"]V0\na", &[(12, &storage)])] {
        let Contents { tensors, dropped, .. } = read(&file).unwrap();
        assert_eq!((tensors.len(), dropped.len()), (1, 1 + (1 << 12)));
        assert!(dropped.iter().all(|(name, _)| name == "a key of 32768 bytes instead of at most 1024"));
    }
    let key = Described { key: &longer, ..GOOD };
    refused(&key.checkpoint(&storage), "expected a name of at most 1024 bytes");
    refused(&old(&dict(&[("w", key.pickle())]), b"]", &[]), "expected a name of at most 1024 bytes");
    // Every key once, with the last value, also among the entries that are left out.
    let twice = [b"}(Vw\nI1\nVe\nI1\nVe\nI2\nVw\n", &GOOD.pickle()[..], b"u."].concat();
    let Contents { tensors, dropped, .. } = read(&checkpoint(&twice, &members)).unwrap();
    assert_eq!((tensors.len(), dropped), (1, vec![("e".to_string(), "the number 2".to_string())]));
    refused(
        &checkpoint(&[b"}(Vw\n", &GOOD.pickle()[..], b"Vw\nI7\nu."].concat(), &members),
        "found no tensor: w (the number 7)",
    );

    let torch =
        |axes: usize| Described { shape: &vec!["1"; axes], strides: &vec!["1"; axes], ..GOOD }.checkpoint(&storage);
    let npy = |axes: usize| npy_of(&"1,".repeat(axes), b"x");
    let safetensors = |axes: usize| {
        let shape = vec!["1"; axes].join(",");
        let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,1]}}}}"#);
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"x"].concat()
    };
    for (file, expected) in [
        (torch(33), "expected at most 32 axes, found a tuple of 33"),
        (npy(33), "expected at most 32 axes"),
        (npy(4000), "expected at most 32 axes"),
        (safetensors(33), "expected a shape of at most 32 axes that memory can hold, found 33 axes"),
        // Written as npy, the header of this would have had more bytes than its length can say.
        (safetensors(30_000), "found 30000 axes"),
    ] {
        refused(&file, expected);
    }
    for file in [torch(32), npy(32), safetensors(32)] {
        let tensors = read(&file).unwrap().tensors;
        for path in ["t.pth", "t.npz", "t.safetensors"].map(Path::new) {
            let again = formats::read_bytes(path, &formats::to_bytes(path, &tensors).unwrap(), None).unwrap().tensors;
            assert_eq!(again, tensors, "{}", path.display());
        }
    }
}

/// Pickles that would execute something in Python: here they are data, as an object of any other class.
const PROGRAMS: [&[u8]; 17] = [
    b"cos\nsystem\n(S'touch x'\ntR.",
    b"cposix\nsystem\n(S'id'\ntR.",
    b"c__builtin__\neval\n(S'1'\ntR.",
    b"\x80\x04\x8c\x08builtins\x94\x8c\x04exec\x94\x93\x8c\x011\x85R.",
    b"csubprocess\nPopen\n(S'id'\ntR.",
    b"c__main__\nEvil\n)R.",
    b"ctorch\nload\n(S'x'\ntR.",
    b"ctorch.hub\nload\n(S'x'\ntR.",
    b"cargparse\nNamespace\n)R.",
    // Through the memo, through NEWOBJ, NEWOBJ_EX, INST and OBJ, as the state, an item or an argument of another object.
    b"\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\x00h\x01\x93\x8c\x02id\x85R.",
    b"\x80\x02cnt\nsystem\n)\x81.",
    b"\x80\x04cnt\nsystem\n)}\x92.",
    b"(S'id'\nios\nsystem\n.",
    b"(cos\nsystem\nS'id'\no.",
    b"ctorch\ndevice\n(S'cpu'\ntR(cos\nsystem\n(S'id'\ntRtb.",
    b"cbuiltins\ngetattr\n(cos\nS'system'\ntR(S'id'\ntR.",
    b"S'os.system'\n(S'id'\ntR.",
];

#[test]
fn nothing_is_run() {
    let storage = [0; 48];
    let members = [("a/data/0", &storage[..])];
    for program in PROGRAMS {
        // Alone they are no weights. Only an `OrderedDict` or another object with items by key is read like a dict.
        refused(&checkpoint(program, &[]), "expected a state dict");
        refused(&old(program, b"]", &[]), "expected a state dict");
        // Beside the weights they are left out and named.
        let beside = dict(&[("x", program[..program.len() - 1].to_vec()), ("w", GOOD.pickle())]);
        for file in [checkpoint(&beside, &members), old(&beside, b"]V0\na", &[(12, &storage)])] {
            let Contents { tensors, dropped, .. } = read(&file).unwrap();
            assert!(tensors.names().eq(["w"]));
            assert!(dropped.len() == 1 && dropped[0].0 == "x" && dropped[0].1.contains("made by"), "{dropped:?}");
        }
        // As a key, as a storage, as the sizes and as the whole of a tensor.
        let inner = String::from_utf8_lossy(&program[..program.len() - 1]).into_owned();
        let tensor = |from: &str, to: &str| String::from_utf8_lossy(&GOOD.pickle()).replacen(from, to, 1).into_bytes();
        if program[0] < 0x80 {
            let key = [b"}", inner.as_bytes(), &GOOD.pickle()[..], b"s."].concat();
            refused(&checkpoint(&key, &members), "found no tensor: an object made by");
            for (from, to) in
                [("Vcpu\nL12L\ntQ", "Vcpu\nL12L\nt"), ("ctorch\nFloatStorage\n", ""), ("(L3L\nL4L\nt", "")]
            {
                let odd = dict(&[("w", tensor(from, &(inner.clone() + to)))]);
                assert!(read(&checkpoint(&odd, &members)).is_err(), "{}", String::from_utf8_lossy(&odd));
            }
        }
    }
    // The older format has five pickles: none of them may execute anything.
    let good = old(b"N.", b"]", &[]);
    let evil = b"cos\nsystem\n(S'id'\ntR.";
    for (from, expected) in [
        (&b"\x80\x02\x8a\x0al"[..], "the magic number"),
        (b"\x80\x02M\xe9", "a whole number, found an object made by `os.system`"),
        (b"\x80\x02}Vl", "a dict, found an object made by `os.system`"),
    ] {
        let at = find(&good, from, 0);
        let message = torch::read_bytes(Path::new("f"), &[&good[..at], evil].concat(), None).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    refused(&[&good[..good.len() - 2], evil].concat(), "expected a list, found an object made by `os.system`");
    // A call of a name that is known is not executed either.
    refused(&checkpoint(b"ctorch\ndevice\n(S'cpu'\ntR.", &[]), "expected a state dict, or one tensor");
    refused(&checkpoint(b"}.", &[]), "found no tensor: an empty dict");
    refused(&checkpoint(b"}S'epoch'\nI7\ns.", &[]), "found no tensor: epoch (the number 7)");
}

/// Sharing, self-reference, depth and false lengths, alone and beside the weights: rejected or left out at once.
#[test]
fn bombs_are_harmless() {
    let storage = [0; 48];
    let members = [("a/data/0", &storage[..])];
    let pairs = [&b")q\x00"[..], &b"h\x00\x86q\x00".repeat(60)].concat();
    let lists = [&b"]q\x00"[..], &b"0](h\x00h\x00eq\x00".repeat(60)].concat();
    let entry = b"0}(Va\nj\xff\xff\xff\xffVb\nj\xff\xff\xff\xffur\xff\xff\xff\xff";
    let dicts = [&b"}r\xff\xff\xff\xff"[..], &entry.repeat(60)].concat();
    let itself = b"]q\x00h\x00\x85ah\x00\x86".to_vec();
    let dict_itself = b"}q\x00Va\nh\x00\x85s".to_vec();
    // A parameter whose tensor is the parameter, through its argument list.
    let parameter = b"ctorch._utils\n_rebuild_parameter\n(]q\x00tRq\x01".to_vec();
    let deep = [&b")"[..], &[0x85; 100_000]].concat();
    let deep_dicts = [&b"N"[..], &b"q\x000}Va\nh\x00s".repeat(100_000)].concat();
    let many_parameters = [&b"N"[..], &b"q\x000ctorch._utils\n_rebuild_parameter\n(h\x00tR".repeat(10_000)].concat();
    for bomb in [pairs, lists, dicts, itself, dict_itself, parameter, deep, deep_dicts, many_parameters] {
        let start = std::time::Instant::now();
        read(&checkpoint(&[&bomb[..], b"."].concat(), &[])).expect_err("no weights");
        let beside = [b"(Vx\n", &bomb[..], b"Vw\n", &GOOD.pickle(), b"d."].concat();
        let tensors = read(&checkpoint(&beside, &members)).map(|contents| contents.tensors.len());
        assert_eq!(tensors, Ok(1));
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }
    refused(&checkpoint(&[&b"N"[..], &b"20".repeat(1 << 22), b"."].concat(), &[]), "at most 8388608 opcodes");
    refused(&checkpoint(b"j\xff\xff\xff\xff.", &[]), "is fetched before it is stored");
    for huge in
        [&b"T\xff\xff\xff\xffabc."[..], b"X\xff\xff\xff\xffabc.", b"B\xff\xff\xff\xffabc.", b"\x8b\xff\xff\xff\xffabc."]
    {
        refused(&checkpoint(huge, &[]), "expected 4294967295 more bytes");
    }
    for huge in [&b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff."[..], b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN."] {
        refused(&checkpoint(huge, &[]), "expected 18446744073709551615 more bytes");
    }
    // A number of 100,000 digits is not computed.
    refused(&checkpoint(&[&b"L"[..], &[b'9'; 100_000], b"L\n."].concat(), &[]), "a whole number of more than 16 bytes");
}

/// A small file whose deflated members would fill the memory: rejected before they are unpacked, and left alone where they
/// are beside the weights.
#[test]
fn deflated_members_are_bounded() {
    let deflated = |members: &[(&str, &[u8])]| archive_as(CompressionMethod::Deflated, members);
    let vector = |key, len| {
        let shape = [len];
        Described { key, len, shape: &shape, strides: &["1"], ..GOOD }.pickle()
    };
    let zeros = vec![0u8; 140_000_000];
    let half = &zeros[..70_000_000];
    let wanted = dict(&[("w", vector("0", "35000000"))]);
    let file = deflated(&[("a/data.pkl", &wanted), ("a/data/0", &zeros)]);
    assert!(file.len() < 200_000);
    let advice = "found 140000000: if it is trusted, unpack it and save it without compression";
    refused(&file, "expected tensors of at most ");
    refused(&file, advice);
    // A part of a large storage.
    let part = |key, len| Described { key, len, ..GOOD }.pickle();
    let file = deflated(&[("a/data.pkl", &dict(&[("w", part("0", "35000000"))])), ("a/data/0", &zeros)]);
    refused(&file, "a/data/0: expected at most ");
    refused(&file, " unpacked bytes in a file of this size, found 1400001");
    // Without compression the same weights are read: the file is as large as they are.
    assert!(read(&archive(&[("a/data.pkl", &wanted), ("a/data/0", &zeros)])).is_ok());
    // Two halves.
    let two = dict(&[("w", part("0", "17500000")), ("v", part("1", "17500000"))]);
    let file = deflated(&[("a/data.pkl", &two), ("a/data/0", half), ("a/data/1", half)]);
    refused(&file, "a/data/1: expected at most ");
    refused(&file, " unpacked bytes in a file of this size, found 1400002");
    // One storage twice.
    let shared = dict(&[("w", vector("0", "17500000")), ("v", vector("0", "17500000"))]);
    let file = deflated(&[("a/data.pkl", &shared), ("a/data/0", half)]);
    refused(&file, advice);
    // Beside the state dict it is not unpacked, as the damage shows.
    let state = dict(&[("w", GOOD.pickle())]);
    let beside = dict(&[("model", state[2..state.len() - 1].to_vec()), ("big", vector("1", "35000000"))]);
    let mut file =
        deflated(&[("a/data.pkl", &beside), ("a/data/0", &zeros[..48]), ("a/data/1", &zeros), ("a/version", b"3")]);
    let middle = file.len() / 2;
    file[middle..][..100].fill(0xff);
    assert!(read(&file).unwrap().tensors.names().eq(["w"]));
    // A pickle takes many times its size.
    let pickle = [&b"\x80\x02"[..], &b")".repeat(3_000_000), b"."].concat();
    let file = deflated(&[("a/data.pkl", &pickle)]);
    assert!(file.len() < 5_000);
    refused(&file, "found 3000003: if it is trusted");
    refused(&archive(&[("a/data.pkl", &pickle)]), "stops with values left over");
    // Arrays of NumPy.
    let array = npy_of("140000000,", &zeros);
    refused(&deflated(&[("a.npy", &array)]), "a.npy: expected at most ");
    assert!(read(&deflated(&[("a.npy", &npy_of("70000000,", half))])).is_ok());
}

#[test]
fn checkpoints_of_another_shape_are_refused() {
    let storage = [0; 48];
    let pickle = dict(&[("w", GOOD.pickle())]);
    let members = [("a/data.pkl", &pickle[..]), ("a/data/0", &storage[..])];
    assert!(read(&archive(&members)).is_ok());
    refused(
        &archive(&[members[0], members[1], ("b/data.pkl", &pickle)]),
        "expected one member data.pkl, as PyTorch writes it, found 2",
    );
    refused(&archive(&[members[0], members[1], ("a/code/x.py", b"")]), "found a TorchScript program");
    refused(&archive(&[members[0], members[1], ("a/byteorder", b"middle")]), "expected `little` or `big`");
    refused(
        &checkpoint(&[&pickle[..], b"x"].concat(), &[members[1]]),
        "expected the end of the pickle, found 1 more bytes",
    );
    // The other byte order: the same bytes are other values.
    let bytes: Vec<u8> = (0..12).flat_map(|i| (number(i) as f32).to_be_bytes()).collect();
    let big = archive(&[members[0], ("a/data/0", &bytes), ("a/byteorder", b"big")]);
    check(read(&big).unwrap().tensors.get("w"), "big", Dtype::F32, &numbers(&[3, 4]));
    // Deflated by another program.
    let deflated = archive_as(CompressionMethod::Deflated, &members);
    check(read(&deflated).unwrap().tensors.get("w"), "deflated", Dtype::F32, &ArrayD::zeros(IxDyn(&[3, 4])));
    // Every usual key, nested ones, too; the last of two equal keys counts.
    for wrapper in torch::KEYS {
        let inner = dict(&[("w", GOOD.pickle())]);
        let inner = inner[2..inner.len() - 1].to_vec();
        let once = dict(&[(wrapper, inner)]);
        let twice = dict(&[("state_dict", once[2..once.len() - 1].to_vec())]);
        assert_eq!(read(&checkpoint(&once, &[members[1]])).unwrap().unwrapped, [wrapper]);
        assert_eq!(read(&checkpoint(&twice, &[members[1]])).unwrap().unwrapped, ["state_dict", wrapper]);
    }
    let twice = dict(&[("w", Described { shape: &[], strides: &[], ..GOOD }.pickle()), ("w", GOOD.pickle())]);
    assert_eq!(read(&checkpoint(&twice, &[members[1]])).unwrap().tensors.get("w").unwrap().len(), 12);
}

/// A file of the older format: this object, these keys, these storages.
fn old(object: &[u8], keys: &[u8], storages: &[(i64, &[u8])]) -> Vec<u8> {
    let mut bytes =
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}Vlittle_endian\n\x88s.".to_vec();
    bytes.extend(object);
    bytes.extend(keys);
    bytes.push(b'.');
    for (count, storage) in storages {
        bytes.extend(count.to_le_bytes());
        bytes.extend(*storage);
    }
    bytes
}

#[test]
fn the_older_format_is_checked_as_strictly() {
    let (object, storage) = (dict(&[("w", GOOD.pickle())]), [0; 48]);
    let keys = &b"]V0\na"[..];
    assert_eq!(read(&old(&object, keys, &[(12, &storage)])).unwrap().tensors.get("w").unwrap().len(), 12);
    for (bytes, expected) in [
        (old(&object, keys, &[(13, &storage)]), "expected 13 float32 of the storage \"0\", found 48 bytes"),
        (old(&object, keys, &[(i64::MAX, &storage)]), "expected 9223372036854775807 float32"),
        (old(&object, keys, &[(-1, &storage)]), "expected -1 float32"),
        (old(&object, keys, &[(11, &storage[4..])]), "expected 12 float32 in the storage \"0\", found 44 bytes"),
        (old(&object, keys, &[(12, &storage), (0, b"")]), "expected the end of the file, found 8 more bytes"),
        (old(&object, keys, &[]), "8 bytes, found 0"),
        (old(&object, b"]", &[]), "there is no storage \"0\" in the file"),
        (old(&object, b"]V1\na", &[(12, &storage)]), "the key of a storage that is mentioned"),
        (old(&object, b"](V0\nV0\ne", &[(12, &storage), (12, &storage)]), "expected every storage once"),
        (old(&object, b"}", &[]), "expected a list"),
        (
            old(
                &dict(&[("w", GOOD.pickle()), ("v", Described { class: "DoubleStorage", ..GOOD }.pickle())]),
                keys,
                &[],
            ),
            "expected one element type of the storage \"0\", found two",
        ),
    ] {
        refused(&bytes, expected);
    }
    let protocol = old(&object, keys, &[(12, &storage)]);
    let at = find(&protocol, b"M\xe9\x03", 0);
    refused(
        &[&protocol[..at], b"M\xea\x03", &protocol[at + 3..]].concat(),
        "the protocol number 1001, found the number 1002",
    );
}

// ---- Damage ---------------------------------------------------------------------------------------------------------

const FIXTURES: [&str; 10] = [
    "zip.pth",
    "old.pth",
    "checkpoint.pth",
    "checkpoint-old.th",
    "module.pt",
    "tensor.pt",
    "deflated.npz",
    "stored.npz",
    "fortran.npy",
    "all.safetensors",
];

/// The most virtual memory this process has had, in kB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmPeak:"))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Every fixture cut at every length and with every byte changed in three ways: nothing panics, cut files are rejected, and
/// no damage makes a reader allocate memory out of proportion to the file of 5 kB.
#[test]
fn damaged_files_are_refused_or_read_and_nothing_else() {
    let before = peak();
    for name in FIXTURES {
        let bytes = fixture(name);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{name} cut to {length} of {} bytes", bytes.len());
        }
        for at in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= change;
                if let Ok(contents) = read(&bytes) {
                    let size: usize = contents.tensors.iter().map(|(_, tensor)| 8 * tensor.len()).sum();
                    assert!(size <= 3 << 20, "{name}, byte {at}: {size} bytes of tensors");
                }
            }
        }
    }
    match (before, peak()) {
        // Threads of other tests allocate, too; four gigabytes would still show.
        (Some(before), Some(after)) => assert!(after - before < 1 << 21, "{before} kB before, {after} kB after"),
        _ => println!("!! SKIPPED: this system does not report how much memory was requested"),
    }
}

#[test]
fn paths_are_in_messages() {
    let missing = PathBuf::from("there/is/no/such.safetensors");
    let message = formats::read(&missing).unwrap_err().to_string();
    assert!(message.starts_with("cannot read there/is/no/such.safetensors"), "{message}");
    assert!(formats::read(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err().to_string().starts_with("cannot read"));
}

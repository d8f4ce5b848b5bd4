//! Files that are no weights but are often found where weights should be: what they are, and what to do.

use super::pickle::Pickle;

/// How a file begins, what it is, what to do.
const KINDS: [(&[u8], &str, &str); 13] = [
    (b"version https://git-lfs", "a pointer of Git LFS, without the file", "run `git lfs pull`"),
    (b"\x1f\x8b", "a file compressed by gzip", UNPACK),
    (b"BZh", "a file compressed by bzip2", UNPACK),
    (b"\xfd7zXZ\x00", "a file compressed by xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a file compressed by zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "an archive of 7-Zip", UNPACK),
    (b"Rar!", "an archive of RAR", UNPACK),
    (b"\x89HDF\r\n", "HDF5, as Keras writes it", CONVERT),
    (b"GGUF", "GGUF, as llama.cpp reads it", CONVERT),
    (b"\x89PNG", "a picture", GIVE_WEIGHTS),
    (b"\xff\xd8\xff", "a picture", GIVE_WEIGHTS),
    (b"%PDF", "a PDF document", GIVE_WEIGHTS),
    (b"RIFF", "a picture or sound", GIVE_WEIGHTS),
];
const UNPACK: &str = "unpack it first";
const CONVERT: &str = "save its tensors as safetensors or npz";
const GIVE_WEIGHTS: &str = "give the file of the weights";

/// What a file of no known format is: its kind and what to do, or its first bytes.
pub(super) fn describe(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "an empty file".to_string();
    }
    let kind = KINDS.iter().find(|(start, ..)| bytes.starts_with(start)).map(|&(_, what, advice)| (what, advice));
    match kind.or_else(|| structured(bytes)) {
        Some((what, advice)) => format!("{what}: {advice}"),
        None => format!("the bytes {:02x?}", &bytes[..bytes.len().min(16)]),
    }
}

/// The kinds that are recognised by more than fixed first bytes.
fn structured(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let text = bytes.trim_ascii_start();
    let begins =
        |start: &str| text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes()));
    if begins("<!doctype") || begins("<html") || begins("<?xml") {
        return Some(("a web page", "the download failed or needs a login; download the file itself"));
    }
    if begins("{") || begins("[") {
        return Some(("JSON, a text", "give the file of the weights beside it"));
    }
    if bytes.get(257..262).is_some_and(|magic| magic == b"ustar") {
        return Some(("a tar archive", UNPACK));
    }
    // A protocol buffer: the version of ONNX, then the program that wrote it, or the graph.
    if matches!(bytes, [0x08, 1..=32, 0x12 | 0x1a | 0x22 | 0x3a | 0x42, ..]) {
        return Some(("ONNX, which is only written", "convert the weights from which it was made"));
    }
    if bytes.starts_with(b"\x80") && Pickle::parse(bytes, 0, "").is_ok() {
        return Some(("a pickle that `torch.save` did not write", "save the state dict with `torch.save`"));
    }
    None
}

//! The first inputs of every target, from tests/library/formats and by hand: `cargo run --example seeds` in this folder writes
//! them to `corpus`.

use resnet_by_hand_fuzz::{self as targets, MARK, PLANES};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tiff::encoder::{Compression, TiffEncoder, colortype::RGB8};

/// A tensor of two by two elements, in text opcodes.
const TENSOR: &str = "ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nL4L\ntQL0L\n\
                      (L2L\nL2L\nt(L2L\nL1L\ntI00\n}tR";

/// The same tensor in a storage without a type.
fn untyped(tensor: &str) -> String {
    let tensor = tensor.replace("_v2", "_v3").replace("ctorch\nFloatStorage", "ctorch.storage\nUntypedStorage");
    tensor.replace("L4L\ntQ", "L16L\ntQ").replace("}tR", "}ctorch\nfloat32\ntR")
}

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(here().join("../library/formats").join(name)).expect("a fixture")
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = here().join("corpus").join(target);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), bytes).expect("a seed");
    let target = match target {
        "npy" => targets::npy,
        "npz" => targets::npz,
        "safetensors" => targets::safetensors,
        "pth" => targets::pth,
        "pth_old" => targets::pth_old,
        "cifar_python" => targets::cifar_python,
        "picture" => targets::picture,
        _ => targets::cifar_archive,
    };
    // A fuzzer that starts from rejected files may never reach the inside of a reader.
    assert!(target(bytes) || name.starts_with("refused"), "{name} is rejected");
}

/// A zip archive as a list of members.
fn members(archive: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(archive)).expect("an archive");
    let mut list: Vec<Vec<u8>> = Vec::new();
    for i in 0..zip.len() {
        let mut member = zip.by_index(i).expect("a member");
        let deflated = member.compression() != zip::CompressionMethod::Stored;
        let mut bytes =
            [if deflated { b"1" } else { &b"0"[..] }, member.name().expect("a name").as_bytes(), b"|"].concat();
        member.read_to_end(&mut bytes).expect("its bytes");
        list.push(bytes);
    }
    list.join(MARK)
}

/// Small files of every format.
fn pictures() -> Vec<(String, Vec<u8>)> {
    let pixels: Vec<u8> = (0..17 * 11 * 4).map(|k: u32| (k * k % 251) as u8).collect();
    let mut files = Vec::new();
    for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2, SamplingFactor::F_4_1] {
        for (colours, channels) in [(ColorType::Luma, 1), (ColorType::Rgb, 3), (ColorType::CmykAsYcck, 4)] {
            for progressive in [false, true] {
                let mut bytes = Vec::new();
                let mut encoder = Encoder::new(&mut bytes, 50);
                encoder.set_sampling_factor(sampling);
                encoder.set_progressive(progressive);
                encoder.set_restart_interval(u16::from(channels == 3) * 2);
                encoder.encode(&pixels[..17 * 11 * channels], 17, 11, colours).expect("into memory");
                files.push((format!("{sampling:?}-{channels}-{progressive}.jpg"), bytes));
            }
        }
    }
    for (colours, channels) in [(image_webp::ColorType::Rgb8, 3), (image_webp::ColorType::Rgba8, 4)] {
        let mut bytes = Vec::new();
        let encoder = image_webp::WebPEncoder::new(&mut bytes);
        encoder.encode(&pixels[..17 * 11 * channels], 17, 11, colours).expect("into memory");
        files.push((format!("{channels}.webp"), bytes));
    }
    for (colours, channels) in [(png::ColorType::Grayscale, 1), (png::ColorType::Rgba, 4)] {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 17, 11);
        encoder.set_color(colours);
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels[..17 * 11 * channels]));
        written.expect("into memory");
        files.push((format!("{channels}.png"), bytes));
    }
    let indices: Vec<u8> = pixels[..17 * 11].iter().map(|byte| byte & 3).collect();
    let mut gif = gif::Encoder::new(Vec::new(), 17, 11, &pixels[..12]).expect("into memory");
    let frame = gif::Frame { width: 17, height: 11, buffer: indices.into(), ..gif::Frame::default() };
    gif.write_frame(&frame).expect("into memory");
    files.push(("a.gif".to_string(), gif.into_inner().expect("into memory")));
    for (name, compression) in [("lzw", Compression::Lzw), ("packbits", Compression::Packbits)] {
        let mut bytes = Vec::new();
        let encoder = TiffEncoder::new(std::io::Cursor::new(&mut bytes)).expect("into memory");
        let written = encoder.with_compression(compression).write_image::<RGB8>(17, 11, &pixels[..17 * 11 * 3]);
        written.expect("into memory");
        files.push((format!("{name}.tif"), bytes));
    }
    for (bits, compression, rows) in [(8u16, 1u32, &pixels[..40]), (4, 2, &pixels[..40]), (16, 0, &pixels[..396]), (24, 0, &pixels[..572])] {
        let header = [&[40, 0, 0, 0, 17, 0, 0, 0, 11, 0, 0, 0, 1, 0][..], &bits.to_le_bytes(), &compression.to_le_bytes(), &[0; 20]];
        let colours = if bits <= 8 { &pixels[..4 << bits.min(5)] } else { &[] };
        let offset = [54 + colours.len() as u8, 0, 0, 0];
        let mut bytes = [&b"BM\0\0\0\0\0\0\0\0"[..], &offset, &header.concat(), colours, rows].concat();
        if compression > 0 {
            bytes.extend([0, 1, 0, 1]);
            bytes[46] = 16;
        }
        files.push((format!("refused-or-{bits}-{compression}.bmp"), bytes));
    }
    files
}

fn main() {
    write("npy", "fortran.npy", &fixture("fortran.npy"));
    for (i, header) in [
        "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 2), }\n",
        "{'descr': '>i4', 'fortran_order': True, 'shape': (2L,)}",
        "{'descr': '|b1', 'fortran_order': False, 'shape': (8, 0, 1), }",
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), b"12345678"];
        let bytes = bytes.concat();
        // Two of the elements in four, eight and no bytes.
        write("npy", &i.to_string(), &bytes[..bytes.len() - [0, 0, 8][i]]);
        let member = &bytes[..bytes.len() - [0, 0, 8][i]];
        write("npz", &format!("members-{i}"), &[b"0a.npy|", member, MARK, b"1b.npy|", member].concat());
    }
    for name in ["stored.npz", "deflated.npz"] {
        write("npz", name, &fixture(name));
        write("npz", &format!("members-{name}"), &members(&fixture(name)));
    }
    let file = fixture("all.safetensors");
    write("safetensors", "all.safetensors", &file);
    let header = br#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"__metadata__":{"b":"c"}}"#;
    write("safetensors", "header", &[&header[..], &[0; 4]].concat());
    for name in ["zip.pth", "checkpoint.pth", "module.pt", "tensor.pt"] {
        write("pth", name, &fixture(name));
        write("pth", &format!("members-{name}"), &members(&fixture(name)));
    }
    for name in ["old.pth", "checkpoint-old.th"] {
        let file = fixture(name);
        write("pth_old", name, &file);
        write(
            "pth_old",
            &format!("rest-{name}"),
            &file[file.windows(3).position(|window| window == b"M\xe9\x03").expect("the protocol") + 4..],
        );
    }
    // A tensor of text opcodes, and its possible contexts: shared, nested, in calls.
    let tensor = TENSOR;
    for (name, pickle) in [
        ("text", format!("}}Vw\n{tensor}s.")),
        ("ordered", format!("ccollections\nOrderedDict\n)R(Vw\n{tensor}u}}Vx\nNsb.")),
        ("wrapped", format!("}}Vstate_dict\n}}Vw\n{tensor}ssVepoch\nI3\ns.")),
        ("shared", format!("}}p0\n0{tensor}p1\n0g0\n(Vv\ng1\nVw\ng1\nVw\np2\nNg2\nNu.")),
        (
            "beside",
            format!(
                "}}(Vmodel\n}}Vw\n{tensor}sVargs\ncargparse\nNamespace\n)R}}bVx\n(Va\niset\nb\nVy\n(cos\nsystem\nNou."
            ),
        ),
        ("averaged", format!("}}(Vmodel\n}}Vw\n{tensor}sVema\n}}Vmodule\ncm\nDict\n)RVw\n{tensor}ssu.")),
        ("negative", format!("}}Vw\n{}s.", tensor.replace("}tR", "}}Vneg\nI01\nstR"))),
        ("untyped", format!("}}Vw\n{}s.", untyped(tensor))),
        ("parameter", format!("}}Vw\nctorch._utils\n_rebuild_parameter_with_state\n({tensor}I01\n}}}}tRs.")),
        ("pairs", format!("ccollections\nOrderedDict\n(((Vk\n{tensor}lltR.")),
    ] {
        write("pth", name, &[b"0a/data.pkl|", pickle.as_bytes(), MARK, b"0a/data/0|0123456789abcdef"].concat());
        let len = if name == "untyped" { 16u64 } else { 4 };
        let storage = [&len.to_le_bytes()[..], b"0123456789abcdef"].concat();
        let system = b"\x80\x02}Vlittle_endian\n\x88s.";
        write("pth_old", name, &[&system[..], pickle.as_bytes(), b"]V0\na.", &storage].concat());
    }
    let python2 = [
        &b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(K\x07"[..],
        b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t",
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b",
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00",
        PLANES,
        b"tbU\tfilenamesq\x0c]q\r(U\x05a.pngq\x0eeu.",
    ]
    .concat();
    let latin1 = [
        &b"\x80\x02}(c_codecs\nencode\nX\x04\x00\x00\x00dataX\x06\x00\x00\x00latin1\x86R"[..],
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87R",
        b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
        b"c_codecs\nencode\nX\x00\x0c\x00\x00",
        PLANES,
        b"X\x06\x00\x00\x00latin1\x86RtbX\x06\x00\x00\x00labels](K\x03eu.",
    ]
    .concat();
    let protocol5 = [
        &b"\x80\x05}\x94(\x8c\x04data\x94\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96"[..],
        b"\x00\x18\x00\x00\x00\x00\x00\x00",
        PLANES,
        PLANES,
        b"\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ",
        b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bK\x02M\x00\x0c\x86\x94\x8c\x01F\x94t\x94R\x94",
        b"\x8c\x06labels\x94]\x94(K\x01K\x02eu.",
    ]
    .concat();
    for (name, images, pickle) in [("python2", 1, &python2), ("latin1", 1, &latin1), ("protocol5", 2, &protocol5)] {
        write("cifar_python", name, &[&[images], &pickle[..]].concat());
    }
    let batches = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
    for (name, ending, content) in [("binary", ".bin", [b"\x07", PLANES].concat()), ("python", "", python2)] {
        let member = |batch: &&str| [format!("0c/{batch}{ending}|").as_bytes(), &content].concat();
        let list = batches.iter().map(member).collect::<Vec<_>>().join(MARK);
        write("cifar_archive", name, &list);
        write("cifar_archive", &format!("{name}-readme"), &[b"0c/readme.html|<html>", MARK, &list].concat());
    }
    write("cifar_archive", "refused", &targets::tar_gz(b"0c/data_batch_1|"));

    for (name, bytes) in pictures() {
        write("picture", &name, &bytes);
    }

    // Inputs that take the most memory per byte of each opcode, just after its lists have grown; nearly all are rejected.
    let count = (1 << 14) + 1;
    let shared = [b"}q\x000".as_slice(), TENSOR.as_bytes(), b"q\x010h\x00("].concat();
    let names: Vec<u8> = (0..3000u16).flat_map(|i| [&b"M"[..], &i.to_le_bytes(), b"h\x01"].concat()).collect();
    let mut pickles: Vec<(String, Vec<u8>)> = b"N(]})2\x85\x94"
        .iter()
        .map(|&opcode| (format!("{opcode:02x}"), [b"N", &vec![opcode; count][..]].concat()))
        .collect();
    pickles.push(("names".into(), [&shared[..], &names, b"u."].concat()));
    pickles
        .push(("calls".into(), [b"ccollections\nOrderedDict\nq\x00", &b"h\x00)R"[..].repeat(count / 4)[..]].concat()));
    for (name, pickle) in pickles {
        let name = format!("refused-or-large-{name}");
        write("pth", &name, &[b"0a/data.pkl|", &pickle[..], MARK, b"0a/data/0|0123456789abcdef"].concat());
        write("pth_old", &name, &[&b"\x80\x02}Vlittle_endian\n\x88s."[..], &pickle].concat());
        write("cifar_python", &name, &[b"\x01", &pickle[..10_000.min(pickle.len())]].concat());
    }
    println!("written to {}", Path::new("corpus").display());
}

//! Small data sets in every layout, written by hand, and damaged in many ways.

use super::super::cifar10::{self, CLASSES, PUBLISHED, RECORD_BYTES, from_records, write_records};
use super::*;
use std::fs;
#[cfg(feature = "formats")]
use std::io::Write as _;
use std::path::PathBuf;

/// A folder that is removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("resnet-by-hand-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Images in a test file.
const IMAGES: usize = 3;

fn label(batch: usize, image: usize) -> u8 {
    ((batch * IMAGES + image) % 10) as u8
}

/// The byte of a record; row, column and channel enter differently, so none can be confused with another.
fn byte(batch: usize, image: usize, channel: usize, row: usize, column: usize) -> u8 {
    ((batch * 89 + image * 37 + channel * 67 + row * 5 + column * 3) % 253) as u8
}

fn planes(batch: usize, image: usize) -> Vec<u8> {
    let mut planes = Vec::new();
    for channel in 0..3 {
        for row in 0..32 {
            planes.extend((0..32).map(|column| byte(batch, image, channel, row, column)));
        }
    }
    planes
}

fn binary_file(batch: usize) -> Vec<u8> {
    (0..IMAGES).flat_map(|image| [vec![label(batch, image)], planes(batch, image)].concat()).collect()
}

fn write_folder(folder: &Path, layout: Layout, file: impl Fn(usize) -> Vec<u8>) {
    fs::create_dir_all(folder).unwrap();
    for batch in 0..6 {
        fs::write(folder.join(PUBLISHED.file(layout, batch)), file(batch)).unwrap();
    }
}

fn assert_is_the_data_set(splits: &Splits) {
    assert_eq!(splits.train.pixels.dim(), (5 * IMAGES, 32, 32, 3));
    assert_eq!(splits.test.pixels.dim(), (IMAGES, 32, 32, 3));
    assert_eq!(splits.train.classes, CLASSES);
    for (dataset, first) in [(&splits.train, 0), (&splits.test, 5)] {
        for ((i, row, column, channel), &p) in dataset.pixels.indexed_iter() {
            assert_eq!(p, byte(first + i / IMAGES, i % IMAGES, channel, row, column));
        }
        for (i, &found) in dataset.labels.iter().enumerate() {
            assert_eq!(found, u16::from(label(first + i / IMAGES, i % IMAGES)));
        }
    }
}

fn load(path: &Path) -> Result<Splits> {
    load_only(path, &PUBLISHED, IMAGES)
}

fn message(path: &Path) -> String {
    load(path).expect_err("this must be rejected").to_string()
}

#[test]
fn a_record_by_hand() {
    let mut record = vec![7];
    record.extend([1; 1024]);
    record.extend([2; 1024]);
    record.extend([3; 1024]);
    record[1 + 32 + 5] = 101; // red, row 1, column 5
    record[1 + 2048 + 31 * 32] = 103; // blue, row 31, column 0
    let test = from_records(&record, 0, "hand").unwrap().test;
    assert_eq!(test.labels, [7]);
    assert_eq!(test.image(0).into_iter().take(3).copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((test.pixels[[0, 1, 5, 0]], test.pixels[[0, 5, 1, 0]]), (101, 1));
    assert_eq!((test.pixels[[0, 31, 0, 2]], test.pixels[[0, 0, 31, 2]]), (103, 3));
    let mut written = Vec::new();
    write_records(&test, &mut written, "hand").unwrap();
    assert_eq!(written, record);
}

#[test]
fn binary_folder_or_its_parent() {
    let dir = TempDir::new("binary");
    let folder = dir.0.join("cifar-10-batches-bin");
    write_folder(&folder, Layout::Binary, binary_file);
    assert_is_the_data_set(&load(&folder).unwrap());
    assert_is_the_data_set(&load(&dir.0).unwrap());
    // The published files have 10,000 records, which the public function requires.
    let error = cifar10::load(&folder).unwrap_err().to_string();
    assert!(
        error.ends_with("data_batch_1.bin, at byte 9219: expected 30730000 bytes (10000 records of 3073), found 9219")
    );
}

#[test]
fn damaged_binary_files() {
    let dir = TempDir::new("damaged");
    write_folder(&dir.0, Layout::Binary, binary_file);
    let path = dir.0.join("data_batch_3.bin");
    let good = binary_file(2);

    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(
        message(&dir.0)
            .ends_with("data_batch_3.bin, at byte 9218: expected 9219 bytes (3 records of 3073), found 9218")
    );
    fs::write(&path, [&good[..], &[0]].concat()).unwrap();
    assert!(
        message(&dir.0)
            .ends_with("data_batch_3.bin, at byte 9219: expected 9219 bytes (3 records of 3073), found 9220")
    );

    let mut wrong = good.clone();
    wrong[2 * RECORD_BYTES] = 10;
    fs::write(&path, &wrong).unwrap();
    assert!(message(&dir.0).ends_with("data_batch_3.bin, at byte 6146: expected a label from 0 to 9, found 10"));

    fs::remove_file(&path).unwrap();
    let error = message(&dir.0);
    assert!(
        error.contains(
            "expected six batches, missing data_batch_3.bin; found data_batch_1.bin, data_batch_2.bin, data_batch_4"
        ),
        "{error}"
    );

    let error = from_records(&good[..RECORD_BYTES + 10], 0, "memory").unwrap_err().to_string();
    assert_eq!(error, "memory, at byte 3073: truncated record: expected 3073 bytes, found 10");
}

#[test]
fn something_else_is_told_what_was_looked_for_and_found() {
    let dir = TempDir::new("else");
    assert!(message(&dir.0).ends_with("found an empty folder"));
    fs::write(dir.0.join("notes.txt"), "hello").unwrap();
    let error = message(&dir.0);
    for part in ["cifar-10-batches-bin/", "cifar-10-python.tar.gz", "data_batch_1.bin", "found notes.txt"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(message(&dir.0.join("notes.txt")).contains("at byte 0: expected a folder or a .tar.gz archive"));
    assert!(matches!(load(&dir.0.join("nowhere")), Err(Error::Io { action: "read", .. })));
}

#[cfg(not(feature = "formats"))]
#[test]
fn without_the_feature_the_error_says_so() {
    let dir = TempDir::new("without");
    let archive = dir.0.join("cifar-10-binary.tar.gz");
    fs::write(&archive, [0x1f, 0x8b, 8, 0]).unwrap();
    assert!(message(&dir.0).contains("needs the crate feature `formats`"));
    write_folder(&dir.0.join("py"), Layout::Python, |_| vec![b'N', b'.']);
    assert!(message(&dir.0.join("py")).contains("needs the crate feature `formats`"));
}

#[cfg(feature = "formats")]
mod with_formats {
    use super::super::super::cifar100;
    use super::*;

    /// A batch as cPickle of Python 2 writes it in protocol 2: the published files' opcodes.
    fn python2_file(batch: usize) -> Vec<u8> {
        let data: Vec<u8> = (0..IMAGES).flat_map(|image| planes(batch, image)).collect();
        let mut file =
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(".to_vec();
        file.extend((0..IMAGES).flat_map(|image| [b'K', label(batch, image)]));
        file.extend(
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t",
        );
        file.extend(b"(K\x01K\x03M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b");
        file.extend(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
        file.extend((data.len() as u32).to_le_bytes());
        file.extend(data);
        file.extend(b"tbU\tfilenamesq\x0c]q\r(U\x05a.pngq\x0eU\x05b.pngq\x0fU\x05c.pngq\x10eu.");
        file
    }

    /// A batch as Python 3 with NumPy 2 writes it in protocol 2: bytes as latin1 text.
    fn python3_protocol2_file(batch: usize) -> Vec<u8> {
        let data: String = (0..IMAGES).flat_map(|image| planes(batch, image)).map(char::from).collect();
        let encode = |text: &str| {
            let mut call = b"c_codecs\nencode\nX".to_vec();
            call.extend((text.len() as u32).to_le_bytes());
            call.extend(text.as_bytes());
            call.extend(b"X\x06\x00\x00\x00latin1\x86R");
            call
        };
        let mut file = b"\x80\x02}(".to_vec();
        file.extend(encode("data"));
        file.extend(b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85");
        file.extend(encode("b"));
        file.extend(b"\x87R(K\x01K\x03M\x00\x0c\x86cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87R");
        file.extend(b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89");
        file.extend(encode(&data));
        file.extend(b"tb");
        file.extend(encode("labels"));
        file.extend(b"](");
        file.extend((0..IMAGES).flat_map(|image| [b'K', label(batch, image)]));
        file.extend(b"eu.");
        file
    }

    /// A batch as Python 3 with NumPy 2 writes it in protocol 5, the array in Fortran order.
    fn python3_protocol5_file(batch: usize) -> Vec<u8> {
        let rows: Vec<Vec<u8>> = (0..IMAGES).map(|image| planes(batch, image)).collect();
        let mut file =
            b"\x80\x05}\x94(\x8c\x04data\x94\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96"
                .to_vec();
        file.extend(((IMAGES * IMAGE_BYTES) as u64).to_le_bytes());
        for column in 0..IMAGE_BYTES {
            file.extend(rows.iter().map(|row| row[column]));
        }
        file.extend(b"\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b");
        file.extend(b"K\x03M\x00\x0c\x86\x94\x8c\x01F\x94t\x94R\x94\x8c\x06labels\x94]\x94(");
        file.extend((0..IMAGES).flat_map(|image| [b'K', label(batch, image)]));
        file.extend(b"eu.");
        file
    }

    #[test]
    fn python_folders_of_every_origin() {
        let dir = TempDir::new("python");
        let folder = dir.0.join("cifar-10-batches-py");
        let origins: [fn(usize) -> Vec<u8>; 3] = [python2_file, python3_protocol2_file, python3_protocol5_file];
        for origin in origins {
            write_folder(&folder, Layout::Python, origin);
            assert_is_the_data_set(&load(&folder).unwrap());
            assert_is_the_data_set(&load(&dir.0).unwrap());
        }
    }

    /// `file` with the only occurrence of `from` replaced.
    fn replace(file: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let at: Vec<usize> = (0..file.len()).filter(|&i| file[i..].starts_with(from)).collect();
        assert_eq!(at.len(), 1);
        [&file[..at[0]], to, &file[at[0] + from.len()..]].concat()
    }

    #[test]
    fn damaged_python_batches() {
        let good = python2_file(0);
        let path = Path::new("data_batch_1");
        let message = |file: &[u8]| PUBLISHED.read(Layout::Python, 0, path, file, IMAGES).unwrap_err().to_string();
        assert!(PUBLISHED.read(Layout::Python, 0, path, &good, IMAGES).is_ok());

        // Labels begin after 65 bytes, two bytes each. The second becomes 10.
        let labels = replace(&good, &[b'K', 0, b'K', 1, b'K', 2], &[b'K', 0, b'K', 10, b'K', 2]);
        let at = labels.windows(2).position(|pair| pair == [b'K', 10]).unwrap();
        assert_eq!(message(&labels), format!("data_batch_1, at byte {at}: expected a label from 0 to 9, found 10"));
        let fewer = replace(&good, &[b'K', 0, b'K', 1, b'K', 2], &[b'K', 0, b'K', 1]);
        assert!(message(&fewer).ends_with("expected 3 labels, found 2"));
        assert!(
            message(&replace(&good, b"U\x02u1", b"U\x02i1"))
                .contains("expected the element type 'u1' (uint8), found 2 bytes")
        );
        assert!(
            message(&replace(&good, b"K\x03M\x00\x0c", b"K\x04M\x00\x0c"))
                .contains("expected 4 x 3072 bytes, found 9216")
        );
        assert!(message(&replace(&good, b"K\x03M\x00\x0c", b"K\x09M\x00\x04")).contains("expected 3 rows, found 9"));
        assert!(
            message(&replace(&good, b"U\x04data", b"U\x04dato"))
                .contains("expected the key \"data\", found [\"batch_label\", \"labels\", \"dato\"")
        );
        // Nothing is called, whatever its name.
        assert!(
            message(&replace(&good, b"cnumpy.core.multiarray\n_reconstruct", b"cos\nsystem"))
                .contains("_frombuffer`, found an object made by `os.system`")
        );
        assert!(message(&[&good[..], b"N."].concat()).contains("expected the end of the file, found 2 more bytes"));
        assert!(message(b"N.").ends_with("at byte 0: expected a dict, found None"));
        // Cut anywhere; inside the pixels only at some places, to save time.
        for length in (0..400).chain(good.len() - 300..good.len()) {
            message(&good[..length]);
        }
        let long = vec![0; PUBLISHED.most(Layout::Python, 0, IMAGES) as usize + 1];
        assert!(message(&long).contains("expected at most 23296 bytes for 3 images, found 23297"));
    }

    /// A gzip-compressed tar archive of `(name, claimed size, content)`.
    fn archive(members: &[(String, u64, Vec<u8>)]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (name, size, content) in members {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(*size);
            header.set_mode(0o644);
            header.set_cksum();
            tar.extend(header.as_bytes());
            tar.extend(content);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        tar.resize(tar.len() + 1024, 0);
        compress(&tar)
    }

    fn compress(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn members(layout: Layout, file: impl Fn(usize) -> Vec<u8>) -> Vec<(String, u64, Vec<u8>)> {
        let member = |batch| {
            let content: Vec<u8> = file(batch);
            (format!("{}/{}", PUBLISHED.folder(layout), PUBLISHED.file(layout, batch)), content.len() as u64, content)
        };
        (0..6).map(member).collect()
    }

    #[test]
    fn both_archives_in_any_order_of_members() {
        let dir = TempDir::new("archives");
        for (layout, file) in [(Layout::Binary, binary_file as fn(usize) -> Vec<u8>), (Layout::Python, python2_file)] {
            let path = dir.0.join(PUBLISHED.archive(layout));
            let mut members = members(layout, file);
            members.reverse();
            members.insert(2, (format!("{}/readme.html", PUBLISHED.folder(layout)), 6, b"<html>".to_vec()));
            fs::write(&path, archive(&members)).unwrap();
            assert_is_the_data_set(&load(&path).unwrap());
            assert_is_the_data_set(&load(&dir.0).unwrap());
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn damaged_archives() {
        let dir = TempDir::new("damaged-archives");
        let path = dir.0.join("a.tar.gz");
        let message = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            message(&path).replace(dir.0.to_str().unwrap(), "")
        };
        let members = members(Layout::Binary, binary_file);
        let good = archive(&members);

        // Cut at many places, the gzip checksum at the end included: always an error, of the right kind.
        let step = good.len() / 60;
        for length in (2..good.len()).step_by(step).chain(good.len() - 12..good.len()) {
            fs::write(&path, &good[..length]).unwrap();
            match load(&path).unwrap_err() {
                Error::Format { offset: Some(offset), message, .. } => {
                    assert!(offset <= length as u64);
                    assert!(message.contains("corrupt or truncated"), "{length}: {message}");
                }
                other => panic!("{other}"),
            }
        }
        // A byte changed in the compressed data: the checksum detects it, if nothing earlier did.
        let mut changed = good.clone();
        changed[good.len() / 2] ^= 0x10;
        message(&changed);
        let mut checksum = good.clone();
        checksum[good.len() - 6] ^= 1;
        assert!(message(&checksum).contains("corrupt gzip stream does not have a matching checksum"));

        // A member that is one record short, and one with a wrong claimed size.
        let mut short = members.clone();
        short[1].2.truncate(2 * RECORD_BYTES);
        short[1].1 = short[1].2.len() as u64;
        assert_eq!(
            message(&archive(&short)),
            "/a.tar.gz: cifar-10-batches-bin/data_batch_2.bin, at byte 6146: \
             expected 9219 bytes (3 records of 3073), found 6146"
        );
        let mut huge = members.clone();
        huge[5].1 = 8_000_000_000;
        let error = message(&archive(&huge));
        assert!(
            error.contains("test_batch.bin, at byte") && error.contains("found a member of 8000000000 bytes"),
            "{error}"
        );
        let mut readme = members.clone();
        readme[0] = ("cifar-10-batches-bin/readme.html".into(), 8_000_000_000, vec![]);
        assert!(message(&archive(&readme)).contains("readme.html"));

        let mut wrong = members.clone();
        wrong[4].2[RECORD_BYTES] = 200;
        assert!(
            message(&archive(&wrong))
                .ends_with("data_batch_5.bin, at byte 3073: expected a label from 0 to 9, found 200")
        );

        let missing = [&members[..2], &members[3..]].concat();
        assert_eq!(
            message(&archive(&missing)),
            "/a.tar.gz: expected six batches, missing data_batch_3.bin; \
             found data_batch_1.bin, data_batch_2.bin, data_batch_4.bin, data_batch_5.bin, test_batch.bin"
        );
        let twice = [&members[..], &members[..1]].concat();
        assert!(message(&archive(&twice)).contains("data_batch_1.bin: expected every batch once"));
        let mixed = [&members[..5], &super::with_formats::members(Layout::Python, python2_file)[5..]].concat();
        assert!(message(&archive(&mixed)).contains("test_batch: expected one layout"));
        assert!(message(&archive(&[])).contains("found none of them"));
        assert!(message(&compress(b"not a tar archive")).contains("corrupt or truncated"));

        // A bomb: endless zeros after the archive.
        let bomb = [&good[..], &compress(&vec![0; 3 << 20])].concat();
        assert!(message(&bomb).contains("expected the end of the archive, found more data"));
    }

    #[test]
    fn links_are_not_followed() {
        let dir = TempDir::new("links");
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "cifar-10-batches-bin/data_batch_1.bin", "/etc/passwd").unwrap();
        let path = dir.0.join("a.tar.gz");
        fs::write(&path, compress(&tar.into_inner().unwrap())).unwrap();
        assert!(message(&path).contains("data_batch_1.bin: expected a regular file, found a Symlink"));
    }

    /// CIFAR-100: `train` has five batches of images, `test` one.
    const PARTS: [usize; 2] = [5 * IMAGES, IMAGES];

    /// The fine label of an image; the coarse one is different.
    fn fine(part: usize, image: usize) -> u8 {
        ((part * 50 + image * 7 + 3) % 100) as u8
    }

    fn names100() -> Vec<String> {
        (0..100).map(|class| format!("class_{class}")).collect()
    }

    fn binary100(part: usize) -> Vec<u8> {
        match part {
            2 => (names100().join("\n") + "\n\n").into_bytes(),
            _ => (0..PARTS[part]).flat_map(|i| [vec![i as u8 % 20, fine(part, i)], planes(part, i)].concat()).collect(),
        }
    }

    /// As cPickle of Python 2 writes them in protocol 2.
    fn python100(part: usize) -> Vec<u8> {
        let text = |text: &str| [&[b'U', text.len() as u8], text.as_bytes()].concat();
        if part == 2 {
            let names: Vec<u8> = names100().iter().flat_map(|name| text(name)).collect();
            return [b"\x80\x02}(", &text("fine_label_names")[..], b"](", &names, b"eu."].concat();
        }
        let numbers = |label: &dyn Fn(usize) -> u8| {
            let items: Vec<u8> = (0..PARTS[part]).flat_map(|image| [b'K', label(image)]).collect();
            [b"](", &items[..], b"e"].concat()
        };
        let data: Vec<u8> = (0..PARTS[part]).flat_map(|image| planes(part, image)).collect();
        let mut file = [b"\x80\x02}(", &text("coarse_labels")[..], &numbers(&|image| image as u8 % 20)].concat();
        file.extend([text("fine_labels"), numbers(&|image| fine(part, image)), text("data")].concat());
        file.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R");
        file.extend([b'(', b'K', 1, b'K', PARTS[part] as u8]);
        file.extend(b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R");
        file.extend(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
        file.extend((data.len() as u32).to_le_bytes());
        file.extend(data);
        file.extend(b"tbu.");
        file
    }

    fn write100(folder: &Path, layout: Layout) {
        fs::create_dir_all(folder).unwrap();
        for part in 0..3 {
            let content = if layout == Layout::Binary { binary100(part) } else { python100(part) };
            fs::write(folder.join(cifar100::PUBLISHED.file(layout, part)), content).unwrap();
        }
    }

    /// Loads the data set at `path`, found as by [`crate::data::open()`].
    fn load_any(path: &Path) -> Result<(Splits, &'static str)> {
        let sets = [&PUBLISHED, &cifar100::PUBLISHED];
        Ok(super::super::load(path, &sets, IMAGES)?.map(|(splits, set)| (splits, set.name)).expect("a data set"))
    }

    fn assert_is_cifar100(path: &Path) {
        let (splits, name) = load_any(path).unwrap();
        assert_eq!(name, "CIFAR-100");
        for (part, dataset) in [&splits.train, &splits.test].into_iter().enumerate() {
            assert_eq!(dataset.pixels.dim(), (PARTS[part], 32, 32, 3));
            assert_eq!(dataset.classes, names100());
            for ((i, row, column, channel), &p) in dataset.pixels.indexed_iter() {
                assert_eq!(p, byte(part, i, channel, row, column));
            }
            assert_eq!(dataset.labels, (0..PARTS[part]).map(|i| u16::from(fine(part, i))).collect::<Vec<_>>());
        }
    }

    #[test]
    fn cifar100_in_every_form() {
        for layout in Layout::ALL {
            let dir = TempDir::new("cifar100");
            let set = &cifar100::PUBLISHED;
            let folder = dir.0.join(set.folder(layout));
            write100(&folder, layout);
            assert_is_cifar100(&folder);
            assert_is_cifar100(&dir.0);
            let member = |part| {
                let file = set.file(layout, part);
                let content = fs::read(folder.join(&file)).unwrap();
                (format!("{}/{file}", set.folder(layout)), content.len() as u64, content)
            };
            // The names of the classes may come first.
            let members: Vec<_> = [2, 1, 0].map(member).into();
            fs::write(dir.0.join("a.tar.gz"), archive(&members)).unwrap();
            assert_is_cifar100(&dir.0.join("a.tar.gz"));
        }
    }

    #[test]
    fn damaged_cifar100() {
        let dir = TempDir::new("damaged100");
        let message = |path: &Path| load_any(path).unwrap_err().to_string();
        for (layout, file) in [(Layout::Binary, "fine_label_names.txt"), (Layout::Python, "meta")] {
            let folder = dir.0.join(file);
            write100(&folder, layout);
            fs::remove_file(folder.join(file)).unwrap();
            assert!(message(&folder).contains(&format!("and the names of the classes, missing {file}; found ")));
        }
        let folder = dir.0.join("wrong");
        write100(&folder, Layout::Binary);
        fs::write(folder.join("fine_label_names.txt"), "apple\nbear\n").unwrap();
        assert!(message(&folder).ends_with("fine_label_names.txt: expected the names of 100 classes, found 2"));
        let mut wrong = binary100(1);
        wrong[3074 + 1] = 100;
        fs::write(folder.join("test.bin"), wrong).unwrap();
        assert!(message(&folder).ends_with("test.bin, at byte 3075: expected a label from 0 to 99, found 100"));

        let ten = members(Layout::Binary, binary_file);
        let hundred = binary100(1);
        let mixed = [&ten[..1], &[("test.bin".to_string(), hundred.len() as u64, hundred)]].concat();
        fs::write(dir.0.join("mixed.tar.gz"), archive(&mixed)).unwrap();
        assert!(message(&dir.0.join("mixed.tar.gz")).contains("found files of CIFAR-10 and CIFAR-100"));
    }
}

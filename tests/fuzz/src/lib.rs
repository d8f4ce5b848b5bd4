//! The code that the fuzz targets share: an allocator that counts, its bounds, archives around the fuzzed bytes, and the
//! round trip through the writers.
//!
//! Checksums and compression stop a fuzzer: nearly every changed byte of a zip archive or a `.tar.gz` is rejected
//! before it has an effect. So the input of `npz`, `pth` and `cifar_archive` is a list of members, from which the
//! archive is built here:
//!
//! ```text
//! flags name | content  <|>  flags name | content  <|> …      flags: one byte
//! ```
//!
//! The name `@` is special: its content is a list of changes, `offset (u16) byte`, made in the finished archive (for tar
//! before checksums and compression). An input that begins like a zip or gzip file is used unchanged.

use flate2::write::GzEncoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use resnet_by_hand::data::Splits;
use resnet_by_hand::data::cifar10::{self, IMAGE_BYTES};
use resnet_by_hand::data::picture::{self, Exif};
use resnet_by_hand::formats;
use resnet_by_hand::tensors::{Tensors, Values};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

// ---- Memory ---------------------------------------------------------------------------------------------------------

/// The system's allocator, counting the bytes that are allocated and their peak.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The largest share of its bound that a read has used, in percent.
static SHARE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator. `realloc` and `alloc_zeroed` are the trait's own, through `alloc`:
// memory is counted twice while it is moved, the worst case of any system.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The result of `read`, and the peak of the bytes allocated while it ran, beyond those before.
pub fn measured<T>(read: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = read();
    (result, PEAK.load(Relaxed) - before)
}

/// `read()`, which may not have more than `most` bytes allocated at once.
fn within<T>(most: usize, read: impl FnOnce() -> T) -> T {
    let (result, peak) = measured(read);
    assert!(peak <= most, "{peak} bytes were allocated at once, expected at most {most}");
    let share = peak * 100 / most;
    if share >= SHARE.load(Relaxed) + 5 {
        SHARE.store(share, Relaxed);
        eprintln!("memory: {share} % of the bound, {peak} of {most} bytes");
    }
    result
}

/// The bounds of docs/formats.md: this many bytes for every byte of content, that is of the file with its deflated members
/// unpacked, plus [`SPARE`].
pub mod factor {
    /// The elements, widened to twice their bytes.
    pub const NPY: usize = 3;
    /// The elements as above; the header in JSON becomes text, lists and maps, twice.
    pub const SAFETENSORS: usize = 64;
    /// A member's own bytes beside the elements, and the directory.
    pub const NPZ: usize = 24;
    /// An opcode of one byte becomes a value in the pickle's arena. For storages the factor is 17, plus 1 MB.
    pub const PICKLE: usize = 512;
}
/// Buffers of a fixed size, and messages.
pub const SPARE: usize = 1 << 17;
/// The megabyte that tensors of PyTorch may share.
pub const SHARED: usize = 1 << 20;

/// The claimed unpacked size of all members of a zip archive together, which is at most 1032 times the archive.
fn unpacked(archive: &[u8]) -> usize {
    let entries = archive.windows(28).filter(|window| window.starts_with(b"PK\x01\x02"));
    let claims = entries.map(|entry| u32::from_le_bytes(entry[24..28].try_into().expect("four bytes")) as usize);
    archive.len() + claims.fold(0, usize::saturating_add).min(1032 * archive.len())
}

// ---- Archives -------------------------------------------------------------------------------------------------------

/// The separator of two members.
pub const MARK: &[u8] = b"<|>";

struct Members<'a> {
    members: Vec<(u8, &'a [u8], &'a [u8])>,
    changes: &'a [u8],
}

impl<'a> Members<'a> {
    fn of(mut input: &'a [u8]) -> Self {
        let mut all = Members { members: Vec::new(), changes: &[] };
        loop {
            let end = input.windows(MARK.len()).position(|window| window == MARK);
            let (member, rest) = (&input[..end.unwrap_or(input.len())], end.map(|end| &input[end + MARK.len()..]));
            let name = member.iter().position(|&byte| byte == b'|').unwrap_or(member.len());
            if let Some((&flags, name_bytes)) = member[..name].split_first() {
                let content = member.get(name + 1..).unwrap_or_default();
                match name_bytes {
                    b"@" => all.changes = content,
                    _ => all.members.push((flags, name_bytes, content)),
                }
            }
            let Some(rest) = rest else { return all };
            input = rest;
        }
    }

    fn change(&self, archive: &mut [u8]) {
        for change in self.changes.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
            if let Some(byte) = archive.get_mut(at) {
                *byte = change[2];
            }
        }
    }
}

thread_local! {
    /// Made once: its tables of 300 kB cost more than the rest of the harness.
    static COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(content.len() + content.len() / 8 + 64);
    COMPRESSOR.with_borrow_mut(|compressor| {
        compressor.reset();
        let status = compressor.compress_vec(content, &mut packed, FlushCompress::Finish);
        assert_eq!(status.expect("into memory"), Status::StreamEnd);
    });
    packed
}

/// The zip archive of a list of members. Flags `0`: stored, `1`: deflated; `2` to `5` the same, with another size in
/// the directory, `6` and `7` with a wrong checksum.
pub fn zip(input: &[u8]) -> Vec<u8> {
    let all = Members::of(input);
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for &(flags, name, content) in &all.members {
        let mut crc = Crc::new();
        crc.update(content);
        let packed = if flags & 1 == 0 { content.to_vec() } else { deflate(content) };
        let (sum, size) = match flags & 7 {
            2 | 3 => (crc.sum(), content.len() as u32 + u32::from(flags >> 3)),
            4 | 5 => (crc.sum(), u32::MAX - u32::from(flags)),
            6 | 7 => (!crc.sum(), content.len() as u32),
            _ => (crc.sum(), content.len() as u32),
        };
        // Version, flags, method, time, date; checksum, sizes; length of the name, no other lengths.
        let mut header = vec![20, 0, 0, 0, if flags & 1 == 0 { 0 } else { 8 }, 0, 0, 0, 33, 0];
        header.extend([sum, packed.len() as u32, size].into_iter().flat_map(u32::to_le_bytes));
        header.extend([(name.len() as u16).to_le_bytes(), [0, 0]].concat());
        let start = archive.len() as u32;
        archive.extend([b"PK\x03\x04", &header[..], name, &packed].concat());
        directory.extend([b"PK\x01\x02\x14\x00", &header[..], &[0; 10], &start.to_le_bytes(), name].concat());
    }
    let (count, start) = ((all.members.len() as u16).to_le_bytes(), archive.len() as u32);
    archive.extend(&directory);
    archive.extend([&b"PK\x05\x06\0\0\0\0"[..], &count, &count].concat());
    archive.extend([directory.len() as u32, start].into_iter().flat_map(u32::to_le_bytes));
    archive.extend([0, 0]);
    all.change(&mut archive);
    archive
}

/// Represents the 3,072 bytes of an image, so that an input need not contain them.
pub const PLANES: &[u8] = b"@P@";

/// `bytes` with every [`PLANES`] replaced by the bytes of an image.
fn with_planes(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(at) = bytes.windows(PLANES.len()).position(|window| window == PLANES) {
        all.extend(&bytes[..at]);
        all.extend((0..IMAGE_BYTES).map(|i| (i % 127) as u8));
        bytes = &bytes[at + PLANES.len()..];
    }
    all.extend(bytes);
    all
}

/// The `.tar.gz` of a list of members. The flags are tar's type, `0` for a file; from 0x80 on a file whose claimed
/// size is too large by that much, from 0xf0 on by gigabytes.
pub fn tar_gz(input: &[u8]) -> Vec<u8> {
    let all = Members::of(input);
    let (mut tar, mut headers) = (Vec::new(), Vec::new());
    for &(flags, name, content) in &all.members {
        let content = with_planes(content);
        let size = match flags {
            0xf0.. => 8_000_000_000,
            0x80.. => content.len() as u64 + u64::from(flags - 0x80),
            _ => content.len() as u64,
        };
        headers.push(tar.len());
        tar.resize(tar.len() + 512, 0);
        let start = tar.len() - 512;
        let header = &mut tar[start..];
        header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[156] = if flags < 0x80 { flags } else { b'0' };
        header[257..265].copy_from_slice(b"ustar\x0000");
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    all.change(&mut tar);
    for at in headers {
        tar[at + 148..at + 156].fill(b' ');
        let sum: u32 = tar[at..at + 512].iter().map(|&byte| u32::from(byte)).sum();
        tar[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let mut gz = GzEncoder::new(Vec::new(), Compression::none());
    gz.write_all(&tar).expect("into memory");
    gz.finish().expect("into memory")
}

// ---- Round trip -----------------------------------------------------------------------------------------------------

/// Names, shapes and the bits of all elements: NaN equals itself, and widened types are compared as in memory.
fn contents(tensors: &Tensors) -> Vec<(&str, &[usize], Vec<u64>)> {
    let bits = |values: &Values| match values {
        Values::F32(array) => array.iter().map(|value| value.to_bits().into()).collect(),
        Values::F64(array) => array.iter().map(|value| value.to_bits()).collect(),
        Values::I64(array) => array.iter().map(|&value| value as u64).collect(),
        Values::U8(array) => array.iter().map(|&value| value.into()).collect(),
    };
    tensors.iter().map(|(name, tensor)| (name, tensor.shape(), bits(tensor.values()))).collect()
}

/// The most tensors of a round trip: the time of an input should be the reader's.
const MOST_TENSORS: usize = 128;
/// One input in so many makes the round trip, chosen by its bytes: eight archives are written and read again in it, ten times
/// the work of reading one.
const ROUND_TRIPS: u32 = 16;

/// Whether an input makes the round trip. The same input always does or never does.
fn is_chosen(input: &[u8]) -> bool {
    let mut crc = Crc::new();
    crc.update(input);
    crc.sum().is_multiple_of(ROUND_TRIPS)
}

/// What was read, written in every format, is read back unchanged; and the same tensors give the same bytes.
fn check_round_trip(tensors: &Tensors) {
    if tensors.len() > MOST_TENSORS {
        return;
    }
    for name in ["t.safetensors", "t.pth", "t.npz", "t.npy"] {
        let path = Path::new(name);
        // Not every format accepts every name and every number of tensors: that is an error, not a wrong file.
        let Ok(bytes) = formats::to_bytes(path, tensors) else { continue };
        let read = match formats::read_bytes(path, &bytes, None) {
            Ok(read) => read.tensors,
            // PyTorch's format must contain a tensor.
            Err(_) if tensors.is_empty() => continue,
            Err(error) => panic!("what was written is rejected: {error}"),
        };
        if name != "t.npy" {
            assert_eq!(contents(&read), contents(tensors), "{name}");
        } else {
            let (read, wrote) = (contents(&read), contents(tensors));
            assert_eq!((read[0].1, &read[0].2), (wrote[0].1, &wrote[0].2));
        }
        if name == "t.safetensors" {
            assert_eq!(read.metadata, tensors.metadata);
        }
        assert_eq!(formats::to_bytes(path, &read).expect("it was written before"), bytes, "{name}");
    }
}

fn check_tensors(input: &[u8], read: resnet_by_hand::Result<Tensors>) -> bool {
    read.is_ok_and(|tensors| {
        if is_chosen(input) {
            check_round_trip(&tensors);
        }
        true
    })
}

// ---- Targets: return whether the input was read ---------------------------------------------------------------------

/// The bytes of a `.npy` file.
pub fn npy(input: &[u8]) -> bool {
    let most = factor::NPY * input.len() + SPARE;
    check_tensors(input, within(most, || formats::npy::read_bytes(Path::new("f"), input)).map(|read| read.tensors))
}

/// The members of a `.npz` file, or the file.
pub fn npz(input: &[u8]) -> bool {
    let file = if input.starts_with(b"PK") { input.to_vec() } else { zip(input) };
    let most = factor::NPZ * unpacked(&file) + SPARE;
    check_tensors(input, within(most, || formats::npy::read_npz_bytes(Path::new("f"), &file)).map(|read| read.tensors))
}

/// A `.safetensors` file; if it begins with `{`, the header's length is added before it.
pub fn safetensors(input: &[u8]) -> bool {
    let mut file = Vec::new();
    if input.starts_with(b"{") {
        let header = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
        file.extend((header as u64).to_le_bytes());
    }
    file.extend(input);
    let most = factor::SAFETENSORS * file.len() + SPARE;
    check_tensors(input, within(most, || formats::safetensors::read_bytes(Path::new("f"), &file)))
}

/// The members of a `.pth` file, or the file.
pub fn pth(input: &[u8]) -> bool {
    let file = if input.starts_with(b"PK") { input.to_vec() } else { zip(input) };
    let most = factor::PICKLE * unpacked(&file) + SHARED + SPARE;
    check_tensors(input, within(most, || formats::read_bytes(Path::new("f"), &file, None)).map(|read| read.tensors))
}

/// A `.pth` file of the older format without its first two pickles, magic number and protocol; or the file.
pub fn pth_old(input: &[u8]) -> bool {
    const START: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let file = if input.starts_with(START) { input.to_vec() } else { [START, input].concat() };
    let most = factor::PICKLE * file.len() + SHARED + SPARE;
    check_tensors(input, within(most, || formats::read_bytes(Path::new("f"), &file, None)).map(|read| read.tensors))
}

/// A batch of CIFAR-10 as Python pickles it; the first byte, modulo 3, is the number of images; with [`PLANES`].
pub fn cifar_python(input: &[u8]) -> bool {
    let Some((&images, input)) = input.split_first() else { return false };
    let (file, images) = (with_planes(input), usize::from(images % 3));
    let most = factor::PICKLE * file.len() + SPARE;
    within(most, || cifar10::read_python_batch(Path::new("f"), &file, images)).is_ok_and(|batch| {
        assert_eq!(batch.len(), images);
        check_records(&batch);
        true
    })
}

/// The members of a CIFAR-10 archive of one image in a batch, with [`PLANES`]; or the archive.
pub fn cifar_archive(input: &[u8]) -> bool {
    let is_archive = input.starts_with(b"\x1f\x8b");
    let file = if is_archive { input.to_vec() } else { tar_gz(input) };
    // The unpacked size of the archive is bounded whatever its length.
    let most = factor::PICKLE * cifar10::most_unpacked(1).min(1032 * file.len()) + SPARE;
    within(most, || cifar10::read_archive(Path::new("f"), &file[..], 1)).is_ok_and(|Splits { train, test, .. }| {
        assert_eq!((train.len(), test.len()), (5, 1));
        check_records(&train);
        check_records(&test);
        true
    })
}

/// A picture of any format. Under a fuzzer it has at most 2^16 pixels, whose blocks of a JPEG may be padded to 2^21.
pub fn picture(input: &[u8]) -> bool {
    within((1 << 26) + 64 * input.len(), || picture::decode(Path::new("f"), input)).is_ok_and(|picture| {
        let [upright, stored] = [Exif::Apply, Exif::Ignore].map(|exif| picture.view(exif).len());
        assert_eq!(upright, stored);
        assert_eq!(picture::resize_and_crop(picture.view(Exif::Apply), 2).dim(), (2, 2, 3));
        true
    })
}

fn check_records(dataset: &resnet_by_hand::data::Dataset) {
    let mut records = Vec::new();
    cifar10::write_records(dataset, &mut records, "f").expect("into memory");
    let again = cifar10::read_binary_records(Path::new("f"), &records).expect("what was written");
    assert_eq!((&again.pixels, &again.labels), (&dataset.pixels, &dataset.labels));
}

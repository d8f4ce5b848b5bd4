//! Files that the user names, which need not be files: a pipe of the shell (`<(unzip -p …)`), a named pipe, a device.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long a named pipe may have nobody who writes to it.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// The most bytes of a device: some never end.
#[cfg(feature = "formats")]
const MOST_OF_DEVICE: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Pipe,
    Device,
}

fn kind(path: &Path) -> io::Result<Kind> {
    let kind = fs::metadata(path)?.file_type();
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return Ok(Kind::Pipe);
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Ok(Kind::Device);
        }
    }
    let _ = kind;
    Ok(Kind::File)
}

/// Opens what the user named. A pipe is read to its end, as long as somebody writes to it.
///
/// # Errors
/// Those of the system, and if nobody opens a named pipe to write to it within ten seconds: to open it would take for ever.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    match kind(path)? {
        Kind::File | Kind::Device => File::open(path),
        Kind::Pipe => {
            let (send, receive) = mpsc::channel();
            let owned: PathBuf = path.to_path_buf();
            // If nobody ever writes, the thread waits until the process ends.
            std::thread::spawn(move || send.send(File::open(owned)));
            receive.recv_timeout(PATIENCE).unwrap_or_else(|_| {
                let seconds = PATIENCE.as_secs();
                let message = format!("it is a pipe, and no program began to write to it within {seconds} seconds");
                Err(io::Error::new(io::ErrorKind::TimedOut, message))
            })
        }
    }
}

/// All bytes of what the user named.
///
/// # Errors
/// As [`open`], and if it is a device with more than a megabyte.
#[cfg(feature = "formats")]
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let is_device = kind(path)? == Kind::Device;
    let mut file = open(path)?;
    // A file is read into memory of its size.
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or(0));
    if !is_device {
        file.read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    file.take(MOST_OF_DEVICE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST_OF_DEVICE {
        true => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device, which may never end")),
        false => Ok(bytes),
    }
}

#[cfg(all(test, unix, feature = "formats"))]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn pipes_and_devices_end() {
        let pipe = std::env::temp_dir().join(format!("resnet-by-hand-pipe-{}", std::process::id()));
        let _ = fs::remove_file(&pipe);
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // In several parts, with a pause.
        let writer = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                use std::io::Write as _;
                let mut file = fs::OpenOptions::new().write(true).open(pipe).unwrap();
                file.write_all(b"ab").unwrap();
                std::thread::sleep(Duration::from_millis(50));
                file.write_all(b"cd").unwrap();
            })
        };
        assert_eq!(read(&pipe).unwrap(), b"abcd");
        writer.join().unwrap();
        let error = read(&pipe).unwrap_err().to_string();
        assert_eq!(error, "it is a pipe, and no program began to write to it within 2 seconds");
        fs::remove_file(&pipe).unwrap();
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().to_string(), "it is a device, which may never end");
        assert_eq!(read(&pipe).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

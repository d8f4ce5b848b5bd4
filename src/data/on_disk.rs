//! Images that do not fit into memory: their files are decoded each time they are used.

use super::{Dataset, Framing};
use crate::Result;
use rayon::prelude::*;
use std::borrow::Cow;
use std::path::PathBuf;

/// Images that [`Dataset::for_each_image`] reads at a time.
const CHUNK: usize = 64;

/// The files of all images of a data set, of which only the first are in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OnDisk {
    files: Vec<PathBuf>,
    framing: Framing,
}

impl OnDisk {
    /// Number of files: one per image.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn subset(&self, indices: &[usize]) -> Self {
        OnDisk { files: indices.iter().map(|&i| self.files[i].clone()).collect(), framing: self.framing }
    }

    /// The pixels of image `i`: those that the first reading had, if the file is the same.
    #[cfg(feature = "formats")]
    fn read(&self, i: usize) -> Result<Vec<u8>> {
        Ok(super::picture::read(&self.files[i], self.framing)?.into_raw_vec_and_offset().0)
    }

    #[cfg(not(feature = "formats"))]
    fn read(&self, i: usize) -> Result<Vec<u8>> {
        Err(crate::Error::format(&self.files[i], None, "reading pictures needs the crate feature `formats`"))
    }
}

impl Dataset {
    /// A data set of which only the first images are in memory; the others are read from `files`, which has a file for
    /// every image, in the same way as those in `pixels` were.
    #[cfg(feature = "formats")]
    pub(super) fn partly_in_memory(
        pixels: ndarray::Array4<u8>,
        labels: Vec<u16>,
        classes: Vec<String>,
        source: String,
        files: Vec<PathBuf>,
        framing: Framing,
    ) -> Result<Self> {
        let in_memory = pixels.dim().0;
        let mut dataset = Dataset::new(pixels, labels[..in_memory].to_vec(), classes, source)?;
        if files.len() > in_memory {
            dataset.labels = labels;
            dataset.on_disk = Some(OnDisk { files, framing });
        }
        dataset.check()?;
        Ok(dataset)
    }

    /// Number of images in memory: all, or the first.
    pub fn in_memory(&self) -> usize {
        self.pixels.dim().0
    }

    /// The pixels of the images with these indices; each is contiguous `(H, W, 3)`. Those that are not in memory are
    /// decoded in parallel.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) or [`Error::Format`](crate::Error::Format) when a file has disappeared or changed since it was first read.
    ///
    /// # Panics
    /// For an index out of range.
    pub fn images(&self, indices: &[usize]) -> Result<Vec<Cow<'_, [u8]>>> {
        let (in_memory, h, w, channels) = self.pixels.dim();
        let (bytes, length) = (self.pixels.as_slice().expect("contiguous, see Dataset::new"), h * w * channels);
        let kept = |i: usize| Cow::Borrowed(&bytes[i * length..(i + 1) * length]);
        let Some(on_disk) = &self.on_disk else { return Ok(indices.iter().map(|&i| kept(i)).collect()) };
        let image = |&i: &usize| if i < in_memory { Ok(kept(i)) } else { on_disk.read(i).map(Cow::Owned) };
        indices.par_iter().map(image).collect()
    }

    /// Calls `each` with the pixels of every image, in order.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn for_each_image(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        for first in (0..self.len()).step_by(CHUNK) {
            let indices: Vec<usize> = (first..self.len().min(first + CHUNK)).collect();
            self.images(&indices)?.iter().for_each(|image| each(image));
        }
        Ok(())
    }
}

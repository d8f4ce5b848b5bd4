//! Large arrays that are used again.
//!
//! Every training step needs the same large arrays as the step before. The operating system clears a page of fresh memory
//! and enters it into the page table when it is first touched, which costs more than the work then done on it. So an
//! [`Engine`](super::Engine) keeps the arrays it is done with on a [`Shelf`]: a [`Buffer`] returns by itself, a [`Recycled`]
//! activation when its last handle is dropped, [`Shelf::recycle`] returns one at once. The shelf belongs to one engine and its
//! memory is released with it.
//!
//! A buffer's old contents are whatever was there. Nothing here is unsafe: they are values, only stale ones. Arrays that
//! no request has fitted for a while are given back to the system.

use crate::Activation;
use ndarray::{ArcArray, Array4, Dimension};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

/// Values below which an array is left to the allocator.
const LARGE: usize = 1 << 14;

/// Requests after which an array that fitted none is given back: some ten training steps of a deep network.
const PATIENCE: u64 = 1 << 13;

/// The arrays that nobody uses at the moment; clones are handles of the same shelf.
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Arrays>>);

/// The array longest unused comes first.
#[derive(Default)]
struct Arrays {
    arrays: VecDeque<(u64, Vec<f32>)>,
    requests: u64,
}

impl Arrays {
    /// The smallest array of at least `len` values and at most 1¾ times as many: the last, smaller batch of an epoch uses
    /// the arrays of the others, but those of a stage with twice as many values are left to that stage.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        self.requests += 1;
        let fits = |capacity: usize| capacity >= len && capacity <= len + len / 4 * 3;
        let candidates = self.arrays.iter().enumerate().filter(|(_, (_, array))| fits(array.capacity()));
        // Of equal ones the one used last, which may still be in the cache.
        let best = candidates.rev().min_by_key(|(_, (_, array))| array.capacity()).map(|(i, _)| i);
        best.and_then(|i| self.arrays.remove(i)).map(|(_, array)| array)
    }

    fn give(&mut self, array: Vec<f32>) {
        while self.arrays.front().is_some_and(|(since, _)| since + PATIENCE < self.requests) {
            self.arrays.pop_front();
        }
        self.arrays.push_back((self.requests, array));
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Arrays> {
        self.0.lock().expect("no thread panics while it holds the shelf")
    }

    fn give(&self, array: Vec<f32>) {
        if array.capacity() >= LARGE {
            self.lock().give(array);
        }
    }

    /// `len` values with any contents, for a caller that writes them all. In debug builds they are NaN, so that every test of
    /// every caller is also a test that no value is forgotten.
    pub fn dirty(&self, len: usize) -> Vec<f32> {
        let mut array = match if len >= LARGE { self.lock().take(len) } else { None } {
            Some(mut array) => {
                array.resize(len, 0.0);
                array
            }
            None => vec![0.0; len],
        };
        if cfg!(debug_assertions) {
            array.fill(f32::NAN);
        }
        array
    }

    /// An array of this shape with any contents.
    pub fn dirty_array(&self, shape: (usize, usize, usize, usize)) -> Array4<f32> {
        let (n, h, w, c) = shape;
        Array4::from_shape_vec(shape, self.dirty(n * h * w * c)).expect("the product of the shape")
    }

    /// `len` values with any contents, given back when they are dropped.
    pub fn buffer(&self, len: usize) -> Buffer {
        Buffer { values: self.dirty(len), shelf: self.clone() }
    }

    /// No values, and room for `capacity`.
    pub fn empty_buffer(&self, capacity: usize) -> Buffer {
        let mut buffer = self.buffer(capacity);
        buffer.clear();
        buffer
    }

    /// A handle of `x` that brings its memory back here.
    pub fn recycled(&self, x: Activation<f32>) -> Recycled {
        Recycled { x: Some(x), shelf: self.clone() }
    }

    /// Keeps the memory of an array for later, if this is its last handle.
    pub fn recycle<D: Dimension>(&self, x: ArcArray<f32, D>) {
        if let Ok(array) = x.try_into_owned_nocopy() {
            self.give(array.into_raw_vec_and_offset().0);
        }
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf of {} arrays", self.lock().arrays.len())
    }
}

/// Values that return to their shelf when they are dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    values: Vec<f32>,
    shelf: Shelf,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.shelf.give(std::mem::take(&mut self.values));
    }
}

impl Deref for Buffer {
    type Target = Vec<f32>;
    fn deref(&self) -> &Vec<f32> {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<f32> {
        &mut self.values
    }
}

/// A handle of an activation whose memory returns to the shelf when the last such handle is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Recycled {
    x: Option<Activation<f32>>,
    shelf: Shelf,
}

impl Deref for Recycled {
    type Target = Activation<f32>;
    fn deref(&self) -> &Activation<f32> {
        self.x.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Recycled {
    fn drop(&mut self) {
        if let Some(x) = self.x.take() {
            self.shelf.recycle(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_comes_back_for_a_request_of_about_its_size() {
        let mut shelf = Arrays::default();
        shelf.give(vec![1.0; 1000]);
        shelf.give(vec![2.0; 900]);
        assert!(shelf.take(1001).is_none() && shelf.take(500).is_none());
        assert_eq!(shelf.take(890).unwrap(), vec![2.0; 900]);
        assert!(shelf.take(540).is_none(), "an array of 1000 is too large for it");
        assert_eq!(shelf.take(900).unwrap()[0], 1.0);
    }

    #[test]
    fn an_array_that_nobody_wants_is_given_back() {
        let mut shelf = Arrays::default();
        shelf.give(vec![0.0; 10]);
        (0..=PATIENCE).for_each(|_| assert!(shelf.take(1000).is_none()));
        shelf.give(vec![0.0; 1000]);
        assert_eq!(shelf.arrays.len(), 1);
    }

    #[test]
    fn only_the_last_handle_is_recycled() {
        let shelf = Shelf::default();
        let len = 2 * 64 * 64 * 7;
        let x = Array4::<f32>::from_elem((2, 64, 64, 7), 5.0).into_shared();
        let (kept, address) = (shelf.recycled(x.clone()), x.as_ptr());
        drop(kept);
        assert_eq!(x[[0, 0, 0, 0]], 5.0);
        shelf.recycle(x);
        let again = shelf.dirty(len);
        assert_eq!(again.as_ptr(), address);
    }
}

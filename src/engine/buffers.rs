//! Reuse of large arrays.
//!
//! Every training step needs the same large arrays as the step before. The operating system clears a page of fresh
//! memory and enters it into the page table on the first access, which costs more than the computation on it. So an
//! [`Engine`](super::Engine) keeps the arrays that are no longer in use on a [`Shelf`]. A [`Buffer`] returns to it when
//! it is dropped, a [`Recycled`] activation when its last handle is dropped; [`Shelf::recycle`] returns an array at
//! once. The shelf belongs to one engine, and its memory is freed with it.
//!
//! A new buffer contains old values. This is not unsafe: they are initialised, only stale. Arrays that fit no request
//! for a while are returned to the system.

use crate::Activation;
use ndarray::{ArcArray, Array4, Dimension};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

/// Arrays with fewer values are left to the allocator.
const LARGE: usize = 1 << 14;

/// An array that fits none of this many requests is freed: about ten training steps of a deep network.
const PATIENCE: u64 = 1 << 13;

/// The arrays that are not in use; clones are handles of the same shelf.
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Arrays>>);

/// The array that has been unused longest is first.
#[derive(Default)]
struct Arrays {
    arrays: VecDeque<(u64, Vec<f32>)>,
    requests: u64,
}

impl Arrays {
    /// The smallest array of at least `len` values and at most 1¾ times as many: the last, smaller batch of an epoch
    /// reuses the arrays of the others, but not those of a stage with twice as many values.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        self.requests += 1;
        let fits = |capacity: usize| capacity >= len && capacity <= len + len / 4 * 3;
        let candidates = self.arrays.iter().enumerate().filter(|(_, (_, array))| fits(array.capacity()));
        // Of several equal arrays the most recently used, which may still be in the cache.
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

    /// Frees the arrays that are not in use.
    pub fn clear(&self) {
        let arrays = std::mem::take(&mut self.lock().arrays);
        // Without the lock: returning memory to the system takes time.
        drop(arrays);
    }

    /// Values of the arrays that are not in use.
    #[cfg(test)]
    pub fn values(&self) -> usize {
        self.lock().arrays.iter().map(|(_, array)| array.capacity()).sum()
    }

    /// `len` arbitrary values, for a caller that overwrites all of them. In debug builds they are NaN, so every test
    /// also checks that no value is left unwritten.
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

    /// An array of this shape with arbitrary values.
    pub fn dirty_array(&self, shape: (usize, usize, usize, usize)) -> Array4<f32> {
        let (n, h, w, c) = shape;
        Array4::from_shape_vec(shape, self.dirty(n * h * w * c)).expect("the product of the shape")
    }

    /// `len` arbitrary values, returned to the shelf on drop.
    pub fn buffer(&self, len: usize) -> Buffer {
        Buffer { values: self.dirty(len), shelf: self.clone() }
    }

    /// An empty buffer with room for `capacity` values.
    pub fn empty_buffer(&self, capacity: usize) -> Buffer {
        let mut buffer = self.buffer(capacity);
        buffer.clear();
        buffer
    }

    /// A handle of `x` that returns its memory to this shelf.
    pub fn recycled(&self, x: Activation<f32>) -> Recycled {
        Recycled { x: Some(x), shelf: self.clone() }
    }

    /// Keeps the memory of an array for reuse, if this is its last handle.
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

/// Values that return to their shelf on drop.
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
        self.x.as_ref().expect("present until the handle is dropped")
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
        assert!(shelf.take(540).is_none(), "an array of 1000 is too large");
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
        shelf.give(again);
        shelf.clear();
        assert_eq!(format!("{shelf:?}"), "Shelf of 0 arrays");
    }
}

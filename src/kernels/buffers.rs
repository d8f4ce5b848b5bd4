//! Large arrays that are used again.
//!
//! Every training step needs the same large arrays as the step before. Fresh from the operating system a page of memory
//! is cleared and entered into the page table when it is first touched, which costs more than what is then done with it.
//! So arrays are kept when they are done with: `Buffer` is one that returns by itself, `Recycled` an activation that
//! does when its last handle is dropped, `recycle` returns one at once.
//!
//! A buffer's old contents are whatever was there. Nothing here is unsafe: they are numbers, only not meant for you.
//! Arrays that have not been wanted for a while are given back to the system; [`clear`] gives back all.

use crate::{Activation, Scalar};
use ndarray::{ArcArray, Array4, Dimension};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

/// Numbers below which an array is left to the allocator.
const LARGE: usize = 1 << 14;

/// Requests after which an array that was not wanted is given back: some ten training steps of a deep network.
const PATIENCE: u64 = 1 << 13;

/// The arrays of one number type that nobody uses at the moment, the one longest unused first.
pub(crate) struct Shelf<T> {
    arrays: VecDeque<(u64, Vec<T>)>,
    requests: u64,
}

impl<T> Shelf<T> {
    pub(crate) const fn new() -> Self {
        Shelf { arrays: VecDeque::new(), requests: 0 }
    }

    /// The smallest array of at least `len` numbers and at most 1¾ times as many: the last, smaller batch of an epoch uses
    /// the arrays of the others, but those of a stage with twice as many numbers are left to that stage.
    fn take(&mut self, len: usize) -> Option<Vec<T>> {
        self.requests += 1;
        let fits = |capacity: usize| capacity >= len && capacity <= len + len / 4 * 3;
        let candidates = self.arrays.iter().enumerate().filter(|(_, (_, array))| fits(array.capacity()));
        // Of equal ones the one used last, which may still be in the cache.
        let best = candidates.rev().min_by_key(|(_, (_, array))| array.capacity()).map(|(i, _)| i);
        best.and_then(|i| self.arrays.remove(i)).map(|(_, array)| array)
    }

    fn give(&mut self, array: Vec<T>) {
        while self.arrays.front().is_some_and(|(since, _)| since + PATIENCE < self.requests) {
            self.arrays.pop_front();
        }
        self.arrays.push_back((self.requests, array));
    }
}

/// A number type that has a [`Shelf`].
pub(crate) trait Shelved: Sized + 'static {
    /// The one of the process.
    fn shelf() -> &'static Mutex<Shelf<Self>>;
}

impl Shelved for f32 {
    fn shelf() -> &'static Mutex<Shelf<Self>> {
        static SHELF: Mutex<Shelf<f32>> = Mutex::new(Shelf::new());
        &SHELF
    }
}

impl Shelved for f64 {
    fn shelf() -> &'static Mutex<Shelf<Self>> {
        static SHELF: Mutex<Shelf<f64>> = Mutex::new(Shelf::new());
        &SHELF
    }
}

fn shelf<T: Scalar>() -> MutexGuard<'static, Shelf<T>> {
    T::shelf().lock().expect("no thread panics at the shelf")
}

fn give<T: Scalar>(array: Vec<T>) {
    if array.capacity() >= LARGE {
        shelf::<T>().give(array);
    }
}

/// `len` numbers with any contents, for somebody who writes them all. In debug builds they are NaN, so that every test of
/// everything that asks here is also a test that no number is forgotten.
pub(crate) fn dirty<T: Scalar>(len: usize) -> Vec<T> {
    let mut array = match if len >= LARGE { shelf::<T>().take(len) } else { None } {
        Some(mut array) => {
            array.resize(len, T::zero());
            array
        }
        None => vec![T::zero(); len],
    };
    if cfg!(debug_assertions) {
        array.fill(T::nan());
    }
    array
}

/// Gives all arrays that are kept for later back to the operating system.
pub fn clear<T: Scalar>() {
    *shelf::<T>() = Shelf::new();
}

/// Keeps the memory of an array for later, if this is its last handle.
pub(crate) fn recycle<T: Scalar, D: Dimension>(x: ArcArray<T, D>) {
    if let Ok(array) = x.try_into_owned_nocopy() {
        give(array.into_raw_vec_and_offset().0);
    }
}

/// An array of this shape with any contents.
pub(crate) fn dirty_array<T: Scalar>(shape: (usize, usize, usize, usize)) -> Array4<T> {
    let (n, h, w, c) = shape;
    Array4::from_shape_vec(shape, dirty(n * h * w * c)).expect("the product of the shape")
}

/// Numbers that are given back when they are dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer<T: Scalar>(Vec<T>);

impl<T: Scalar> Buffer<T> {
    /// `len` numbers with any contents.
    pub fn dirty(len: usize) -> Self {
        Buffer(dirty(len))
    }

    /// No numbers, and room for `capacity`.
    pub fn empty(capacity: usize) -> Self {
        let mut array = dirty(capacity);
        array.clear();
        Buffer(array)
    }
}

impl<T: Scalar> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Buffer(self.0.clone())
    }
}

impl<T: Scalar> Drop for Buffer<T> {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

impl<T: Scalar> Deref for Buffer<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Scalar> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

/// A handle of an activation whose memory is kept for later when the last such handle is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Recycled<T: Scalar>(Option<Activation<T>>);

impl<T: Scalar> From<Activation<T>> for Recycled<T> {
    fn from(x: Activation<T>) -> Self {
        Recycled(Some(x))
    }
}

impl<T: Scalar> Deref for Recycled<T> {
    type Target = Activation<T>;
    fn deref(&self) -> &Activation<T> {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl<T: Scalar> Drop for Recycled<T> {
    fn drop(&mut self) {
        if let Some(x) = self.0.take() {
            recycle(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_comes_back_for_a_request_of_about_its_size() {
        let mut shelf = Shelf::new();
        shelf.give(vec![1.0f32; 1000]);
        shelf.give(vec![2.0; 900]);
        assert!(shelf.take(1001).is_none() && shelf.take(500).is_none());
        assert_eq!(shelf.take(890).unwrap(), vec![2.0; 900]);
        assert!(shelf.take(540).is_none(), "an array of 1000 is too large for it");
        assert_eq!(shelf.take(900).unwrap()[0], 1.0);
    }

    #[test]
    fn an_array_that_nobody_wants_is_given_back() {
        let mut shelf = Shelf::new();
        shelf.give(vec![0.0f32; 10]);
        (0..=PATIENCE).for_each(|_| assert!(shelf.take(1000).is_none()));
        shelf.give(vec![0.0; 1000]);
        assert_eq!(shelf.arrays.len(), 1);
    }

    #[test]
    fn only_the_last_handle_is_recycled() {
        // Other tests share the shelf, but none asks for an array nearly as large.
        let len = 3 * 640 * 640 * 7;
        let x = Array4::<f64>::from_elem((3, 640, 640, 7), 5.0).into_shared();
        let (kept, address) = (Recycled::from(x.clone()), x.as_ptr());
        drop(kept);
        assert_eq!(x[[0, 0, 0, 0]], 5.0);
        recycle(x);
        let again = dirty::<f64>(len);
        assert_eq!(again.as_ptr(), address);
    }
}

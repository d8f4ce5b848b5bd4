//! The parts of several processes.
//!
//! The pictures are processed in rounds, so that results are printed as they come. In a round every process has consecutive
//! pictures, as many as fit its threads. Each picture is a batch of its own, so its result is the one of a single process.

use super::{Guess, Prediction};
use crate::Error;
use crate::data::picture::Orientation;
use crate::processes::Communicator;
use rayon::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How the processes share the pictures.
pub struct Shares<'a> {
    processes: &'a dyn Communicator,
    /// The threads of every process.
    threads: Vec<usize>,
}

/// A prediction, or the message of an error.
type Predicted = Result<Prediction, String>;

impl<'a> Shares<'a> {
    pub fn new(processes: &'a dyn Communicator) -> Self {
        let all = processes.all_gather_bytes(&(rayon::current_num_threads() as u64).to_le_bytes());
        let number = |bytes: Vec<u8>| u64::from_le_bytes(bytes.try_into().expect("eight bytes")) as usize;
        Shares { processes, threads: all.into_iter().map(number).collect() }
    }

    /// The pictures of a round. Several for each thread, because they take different times; more if processes wait for each
    /// other.
    pub fn most_at_once(&self) -> usize {
        let threads: usize = self.threads.iter().sum();
        if self.threads.len() == 1 { 2 * threads } else { 8 * threads }
    }

    /// Of `pictures` pictures, those of the process with this rank.
    fn part(&self, pictures: usize, rank: usize) -> Range<usize> {
        let all: usize = self.threads.iter().sum();
        let first = |rank: usize| pictures * self.threads[..rank].iter().sum::<usize>() / all;
        first(rank)..first(rank + 1)
    }

    /// The predictions of all processes for the pictures of a round, in their order.
    pub fn predict(
        &self,
        pictures: &[PathBuf],
        predict: impl Fn(&Path) -> Result<Prediction, Error> + Sync,
    ) -> Vec<Predicted> {
        let own = &pictures[self.part(pictures.len(), self.processes.rank())];
        let one = |path: &PathBuf| predict(path).map_err(|error| error.to_string());
        let own: Vec<Predicted> = own.par_iter().map(one).collect();
        if self.processes.size() == 1 {
            return own;
        }
        let own: Vec<u8> = own.iter().flat_map(message).collect();
        let all = self.processes.all_gather_bytes(&own);
        all.iter().flat_map(|bytes| Messages(bytes)).collect()
    }
}

/// A prediction as bytes: how many classes, the orientation, and for each class its number and the bits of its probability.
/// An error as its length, 0 in place of the orientation, and its text.
fn message(predicted: &Predicted) -> Vec<u8> {
    let head = |length: usize, kind: u8| [&(length as u64).to_le_bytes()[..], &[kind]].concat();
    match predicted {
        Ok(Prediction { guesses, orientation }) => {
            let words = guesses.iter().flat_map(|guess| [guess.class as u64, guess.probability.to_bits()]);
            [head(guesses.len(), orientation.number()), words.flat_map(u64::to_le_bytes).collect()].concat()
        }
        Err(error) => [&head(error.len(), 0)[..], error.as_bytes()].concat(),
    }
}

/// What a process has sent.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = Predicted;

    fn next(&mut self) -> Option<Predicted> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (&kind, rest) = rest.split_first()?;
        let length = u64::from_le_bytes(*length) as usize;
        let (own, rest) = rest.split_at(if kind == 0 { length } else { 16 * length });
        self.0 = rest;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let guess = |bytes: &[u8]| {
            let (class, probability) = bytes.split_at(8);
            Guess { class: word(class) as usize, probability: f64::from_bits(word(probability)) }
        };
        Some(match Orientation::new(kind) {
            Some(orientation) => Ok(Prediction { guesses: own.chunks_exact(16).map(guess).collect(), orientation }),
            None => Err(String::from_utf8_lossy(own).into_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::threads;

    /// A prediction that names its picture; every third picture is damaged.
    fn of(path: &Path) -> Result<Prediction, Error> {
        let number: usize = path.to_str().unwrap().parse().unwrap();
        if number % 3 == 1 {
            return Err(Error::format(path, None, "damaged: é"));
        }
        let guesses = (0..number % 4).map(|k| Guess { class: number + k, probability: 1.0 / (number + k + 3) as f64 });
        let orientation = Orientation::new(1 + (number % 8) as u8).unwrap();
        Ok(Prediction { guesses: guesses.collect(), orientation })
    }

    #[test]
    fn every_number_of_processes_has_all_predictions_in_order() {
        for pictures in [1, 2, 5, 40] {
            let paths: Vec<PathBuf> = (0..pictures).map(|number| PathBuf::from(number.to_string())).collect();
            let expected: Vec<Predicted> =
                paths.iter().map(|path| of(path).map_err(|error| error.to_string())).collect();
            for size in [1, 2, 3, 7] {
                let results = threads::run(size, 2, |processes| {
                    let shares = Shares::new(&*processes);
                    let part = shares.part(pictures, processes.rank());
                    (part.len(), shares.predict(&paths, of))
                });
                assert!(results.iter().all(|(_, all)| *all == expected), "{pictures} pictures, {size} processes");
                let [least, most] = [Iterator::min, Iterator::max].map(|of| of(results.iter().map(|(own, _)| *own)));
                assert!(most.unwrap() - least.unwrap() <= 1, "{pictures} pictures, {size} processes");
            }
        }
    }

    #[test]
    fn a_process_has_pictures_for_its_threads() {
        let shares = Shares { processes: &crate::processes::Alone, threads: vec![1, 3, 4] };
        assert_eq!([0, 1, 2].map(|rank| shares.part(16, rank)), [0..2, 2..8, 8..16]);
        assert_eq!([0, 1, 2].map(|rank| shares.part(1, rank)), [0..0, 0..0, 0..1]);
        assert_eq!(shares.most_at_once(), 64);
    }
}

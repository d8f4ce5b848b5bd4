//! The processes of MPI, through the crate `mpi`: the only part of the program that knows it.

use crate::processes::{Communicator, Traffic};
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Equivalence};
use mpi::{Count, Threading};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The processes that the launcher started together.
pub struct World {
    rank: usize,
    size: usize,
    sent: AtomicU64,
    nanoseconds: AtomicU64,
    /// MPI ends when this is dropped.
    _universe: Mutex<mpi::environment::Universe>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of {} (MPI)", self.rank, self.size)
    }
}

impl World {
    /// Begins MPI. `None` if it has already begun.
    pub fn begin() -> Option<Self> {
        // One thread calls MPI: the one that runs the subcommand. It need not be the first thread of the program.
        let (universe, _) = mpi::initialize_with_threading(Threading::Serialized)?;
        let world = SimpleCommunicator::world();
        let number = |number: i32| usize::try_from(number).expect("ranks are not negative");
        let (rank, size) = (number(world.rank()), number(world.size()));
        Some(World {
            rank,
            size,
            sent: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
            _universe: Mutex::new(universe),
        })
    }

    /// Calls MPI, and counts the time and the bytes that are sent.
    fn exchange(&self, bytes: usize, call: impl FnOnce(SimpleCommunicator)) {
        let start = Instant::now();
        call(SimpleCommunicator::world());
        let nanoseconds = start.elapsed().as_nanos() as u64;
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn all_gather_values<T: Equivalence + Clone + Default>(
        &self,
        own: &[T],
        lengths: &[usize],
        bytes: usize,
    ) -> Vec<T> {
        assert_eq!(own.len(), lengths[self.rank], "all_gather: a length is wrong");
        let mut all = vec![T::default(); lengths.iter().sum()];
        if all.is_empty() {
            return all;
        }
        // An empty slice of bytes may begin at address 1, which is Open MPI's MPI_IN_PLACE.
        let nothing = [T::default()];
        let own = if own.is_empty() { &nothing[..0] } else { own };
        let (lengths, starts) = counts(lengths);
        let mut parts = PartitionMut::new(&mut all[..], lengths, starts);
        self.exchange(bytes, |world| world.all_gather_varcount_into(own, &mut parts));
        all
    }
}

/// Lengths of parts in the types of MPI, and where each part starts.
fn counts(lengths: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let count = |length: usize| Count::try_from(length).expect("a message has fewer than 2³¹ values");
    let starts = lengths.iter().scan(0, |start, length| Some(std::mem::replace(start, *start + length)));
    (lengths.iter().map(|&length| count(length)).collect(), starts.map(count).collect())
}

impl Communicator for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize]) -> Vec<f32> {
        self.all_gather_values(own, lengths, 4 * own.len() * (self.size - 1))
    }

    fn all_to_all(&self, own: &[f32], to: &[usize], from: &[usize]) -> Vec<f32> {
        assert_eq!(own.len(), to.iter().sum::<usize>(), "all_to_all: a length is wrong");
        let bytes = 4 * (own.len() - to[self.rank]);
        let mut all = vec![0.0; from.iter().sum()];
        let ((to, to_starts), (from, from_starts)) = (counts(to), counts(from));
        let mut parts = PartitionMut::new(&mut all[..], from, from_starts);
        let own = Partition::new(own, to, to_starts);
        self.exchange(bytes, |world| world.all_to_all_varcount_into(&own, &mut parts));
        all
    }

    fn all_gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>> {
        let lengths = self.all_gather_values(&[own.len() as u64], &vec![1; self.size], 0);
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
        let mut rest = &self.all_gather_values(own, &lengths, 0)[..];
        let mut message = |&length: &usize| {
            let (own, others) = rest.split_at(length);
            rest = others;
            own.to_vec()
        };
        lengths.iter().map(&mut message).collect()
    }

    fn traffic(&self) -> Traffic {
        let [bytes, nanoseconds] = [&self.sent, &self.nanoseconds].map(|count| count.load(Ordering::Relaxed));
        Traffic { bytes, seconds: nanoseconds as f64 / 1e9 }
    }
}

/// Ends all processes.
pub fn abort(code: u8) -> ! {
    SimpleCommunicator::world().abort(code.into())
}

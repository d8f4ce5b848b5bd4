//! Several processes that compute one run together.
//!
//! A [`Communicator`] moves values and computes nothing: what is added to what is decided by the tree of
//! [`Shards`](super::shards::Shards), so the result has the same bits for any number of processes. The names are those of
//! the Message Passing Interface (MPI), whose implementation is in the command line; [`Alone`] is the only process of a run.
//!
//! Every method must be called by all processes, in the same order, except for `tell` and `told`.

use std::fmt::Debug;
use std::sync::Arc;

/// Moves values between the processes of a run.
///
/// A process that ends without the others makes their calls wait for ever; the launcher of the processes ends them.
pub trait Communicator: Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many processes there are.
    fn size(&self) -> usize;

    /// The values of every process, in the order of ranks. Rank r passes `lengths[r]` values.
    ///
    /// # Panics
    /// If `own` does not have the length that is stated for it.
    fn all_gather(&self, own: &[f32], lengths: &[usize]) -> Vec<f32>;

    /// Sends to each rank its part of `own`, which consists of `to[0]` values for rank 0, `to[1]` for rank 1, and so on.
    /// Returns the parts for this process: `from[0]` values of rank 0, `from[1]` of rank 1, and so on.
    ///
    /// # Panics
    /// If `own` does not have the length that is stated for it.
    fn all_to_all(&self, own: &[f32], to: &[usize], from: &[usize]) -> Vec<f32>;

    /// A message of every process, in the order of ranks. The lengths need not be known.
    fn all_gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>>;

    /// Runs `exchange` beside the caller, if the implementation can do that, and otherwise at once. Exchanges that are passed to
    /// this method run in its order, and may overlap with the calls of the other methods.
    fn in_background(&self, exchange: Exchange);

    /// Splits the processes: those that pass the same number form a group with its own ranks, in the same order. A group cannot
    /// be split again.
    fn split(&self, number: usize) -> Arc<dyn Communicator>;

    /// The number of this process among all that were started together, for messages.
    fn started_as(&self) -> usize {
        self.rank()
    }

    /// Sends a byte to every other process. These may compute something else; they get it when they call
    /// [`told`](Self::told).
    fn tell(&self, byte: u8);

    /// A byte that another process has told, if one has arrived. Each is returned once.
    fn told(&self) -> Option<u8>;

    /// What this process has exchanged so far.
    fn traffic(&self) -> Traffic;
}

/// Calls of the other methods of a communicator.
pub type Exchange = Box<dyn FnOnce(&dyn Communicator) + Send>;

/// What a process has exchanged with the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Bytes of values that it has sent to others; messages of bytes, which are few, are not counted.
    pub bytes: u64,
    /// Seconds in exchanges, those of waiting for the others included; without those in the background.
    pub seconds: f64,
}

/// Whether a condition is true for any process. Every process gets the same answer.
pub fn any(processes: &dyn Communicator, condition: bool) -> bool {
    processes.all_gather_bytes(&[u8::from(condition)]).into_iter().any(|answer| answer == [1])
}

/// The only process of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize]) -> Vec<f32> {
        assert_eq!([own.len()], lengths, "all_gather: a length is wrong");
        own.to_vec()
    }

    fn all_to_all(&self, own: &[f32], to: &[usize], from: &[usize]) -> Vec<f32> {
        assert!([own.len()] == to && to == from, "all_to_all: a length is wrong");
        own.to_vec()
    }

    fn all_gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>> {
        vec![own.to_vec()]
    }

    fn in_background(&self, exchange: Exchange) {
        exchange(self);
    }

    fn split(&self, _: usize) -> Arc<dyn Communicator> {
        Arc::new(Alone)
    }

    fn tell(&self, _: u8) {}

    fn told(&self) -> Option<u8> {
        None
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// Threads instead of processes, for tests.
#[cfg(test)]
pub(crate) mod threads {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

    /// What the threads pass on.
    #[derive(Debug)]
    struct Board {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Debug)]
    struct State {
        /// One for each thread.
        slots: Vec<Vec<u8>>,
        /// What each thread has been told.
        told: Vec<Vec<u8>>,
        /// The boards of groups.
        groups: BTreeMap<usize, Arc<Board>>,
        /// Threads at the barrier, and how often all have passed it.
        waiting: usize,
        passed: usize,
        /// Whether a thread has panicked: the others must not wait for it.
        dead: bool,
    }

    impl Board {
        fn new(size: usize) -> Self {
            let [slots, told] = [(); 2].map(|()| vec![Vec::new(); size]);
            let state = State { slots, told, groups: BTreeMap::new(), waiting: 0, passed: 0, dead: false };
            Board { state: Mutex::new(state), changed: Condvar::new() }
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits for all threads.
        fn barrier(&self) {
            let mut state = self.state();
            let passed = state.passed;
            state.waiting += 1;
            if state.waiting == state.slots.len() {
                (state.waiting, state.passed) = (0, passed + 1);
                self.changed.notify_all();
            }
            while state.passed == passed {
                assert!(!state.dead, "another thread has panicked");
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// One of several threads.
    #[derive(Debug)]
    pub struct Thread {
        rank: usize,
        size: usize,
        started_as: usize,
        board: Arc<Board>,
        sent: AtomicU64,
    }

    impl Drop for Thread {
        fn drop(&mut self) {
            self.board.state().dead |= std::thread::panicking();
            self.board.changed.notify_all();
        }
    }

    /// Runs `work` on `size` threads, each with its own pool of `threads` threads; the results in the order of ranks.
    pub fn run<R: Send>(size: usize, threads: usize, work: impl Fn(Arc<dyn Communicator>) -> R + Sync) -> Vec<R> {
        let board = Arc::new(Board::new(size));
        let one = |rank: usize| {
            let thread = Thread { rank, size, started_as: rank, board: board.clone(), sent: AtomicU64::new(0) };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| work(Arc::new(thread)))
        };
        std::thread::scope(|scope| {
            let started: Vec<_> = (0..size)
                .map(|rank| {
                    scope.spawn({
                        let one = &one;
                        move || one(rank)
                    })
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect()
    }

    fn values(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|bits| f32::from_bits(u32::from_le_bytes(bits.try_into().unwrap()))).collect()
    }

    impl Communicator for Thread {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.size
        }

        fn all_gather(&self, own: &[f32], lengths: &[usize]) -> Vec<f32> {
            let parts: Vec<Vec<f32>> = self.all_gather_bytes(&bytes(own)).iter().map(|part| values(part)).collect();
            assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
            self.sent.fetch_add(4 * (own.len() * (self.size - 1)) as u64, Ordering::Relaxed);
            parts.concat()
        }

        fn all_to_all(&self, own: &[f32], to: &[usize], from: &[usize]) -> Vec<f32> {
            assert_eq!(own.len(), to.iter().sum::<usize>());
            let lengths: Vec<f32> = to.iter().map(|&length| length as f32).collect();
            let lengths: Vec<Vec<f32>> =
                self.all_gather_bytes(&bytes(&lengths)).iter().map(|part| values(part)).collect();
            let all: Vec<Vec<f32>> = self.all_gather_bytes(&bytes(own)).iter().map(|part| values(part)).collect();
            self.sent.fetch_add(4 * (own.len() - to[self.rank]) as u64, Ordering::Relaxed);
            let part = |rank: usize| {
                let first: f32 = lengths[rank][..self.rank].iter().sum();
                assert_eq!(lengths[rank][self.rank] as usize, from[rank]);
                all[rank][first as usize..][..from[rank]].to_vec()
            };
            (0..self.size).flat_map(part).collect()
        }

        fn all_gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>> {
            self.board.state().slots[self.rank] = own.to_vec();
            self.board.barrier();
            let all = self.board.state().slots.clone();
            self.board.barrier();
            all
        }

        fn in_background(&self, exchange: Exchange) {
            exchange(self);
        }

        fn split(&self, number: usize) -> Arc<dyn Communicator> {
            let all = self.all_gather_bytes(&number.to_le_bytes());
            let is_member = |rank: &usize| all[*rank] == number.to_le_bytes();
            let (size, rank) = ((0..self.size).filter(is_member).count(), (0..self.rank).filter(is_member).count());
            let new = || Arc::new(Board::new(size));
            let board = self.board.state().groups.entry(number).or_insert_with(new).clone();
            // Of this split alone.
            self.board.barrier();
            self.board.state().groups.clear();
            self.board.barrier();
            Arc::new(Thread { rank, size, started_as: self.started_as, board, sent: AtomicU64::new(0) })
        }

        fn started_as(&self) -> usize {
            self.started_as
        }

        fn tell(&self, byte: u8) {
            let mut state = self.board.state();
            let others = state.told.iter_mut().enumerate().filter(|(rank, _)| *rank != self.rank);
            others.for_each(|(_, told)| told.push(byte));
        }

        fn told(&self) -> Option<u8> {
            let told = &mut self.board.state().told[self.rank];
            (!told.is_empty()).then(|| told.remove(0))
        }

        fn traffic(&self) -> Traffic {
            Traffic { bytes: self.sent.load(Ordering::Relaxed), seconds: 0.0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_their_own_ranks_and_exchange_nothing_with_others() {
        let results = threads::run(5, 1, |processes| {
            // The ranks 0, 2, 4 and 1, 3.
            let group = processes.split(processes.rank() % 2);
            let all = group.all_gather(&[processes.rank() as f32], &vec![1; group.size()]);
            (group.rank(), group.started_as(), all)
        });
        let [even, odd] = [vec![0.0, 2.0, 4.0], vec![1.0, 3.0]];
        let expected = [(0, 0, even.clone()), (0, 1, odd.clone()), (1, 2, even.clone()), (1, 3, odd), (2, 4, even)];
        assert_eq!(results, expected);
    }

    #[test]
    fn what_a_process_tells_arrives_at_every_other_one_once() {
        let results = threads::run(3, 1, |processes| {
            if processes.rank() == 1 {
                processes.tell(7);
            }
            any(&*processes, false);
            [processes.told(), processes.told()]
        });
        assert_eq!(results, [[Some(7), None], [None, None], [Some(7), None]]);
    }
}

//! The processes of MPI, through the crate `mpi`: the only part of the program that knows it.
//!
//! Two threads of a process call MPI, each with a communicator of its own, so that the exchange of gradients overlaps with
//! the backward pass: the one that runs the subcommand, and one for [`Communicator::in_background`]. The latter must not keep
//! a core busy while it waits, as MPI's blocking calls do; it looks from time to time whether an exchange is complete.

use crate::processes::{Communicator, Exchange, Traffic};
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::request::{Request, Scope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Equivalence};
use mpi::{Count, Threading};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the background looks whether an exchange is complete.
const POLL: Duration = Duration::from_micros(100);

/// The processes that the launcher started together.
pub struct World {
    group: Group,
    /// Exchanges for the other thread; `None` if this MPI library does not support two threads.
    background: Option<(Mutex<Sender<Exchange>>, JoinHandle<()>)>,
    /// MPI ends when this is dropped.
    universe: Option<Mutex<Universe>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of {} (MPI)", self.group.rank, self.group.size)
    }
}

impl World {
    /// Begins MPI. `None` if it has already begun.
    pub fn begin() -> Option<Self> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Multiple)?;
        let world = SimpleCommunicator::world();
        let number = |number: i32| usize::try_from(number).expect("ranks are not negative");
        let (rank, size) = (number(world.rank()), number(world.size()));
        let group = Group { rank, size, sent: Arc::default(), nanoseconds: AtomicU64::new(0), is_patient: false };
        let background = (threading == Threading::Multiple).then(|| {
            let ((sender, receiver), (ready, is_ready)) = (channel::<Exchange>(), channel());
            let group = Group { sent: group.sent.clone(), nanoseconds: AtomicU64::new(0), is_patient: true, ..group };
            let work = move || {
                COMMUNICATOR.set(Some(SimpleCommunicator::world().duplicate()));
                let _ = ready.send(());
                receiver.iter().for_each(|exchange| exchange(&group));
                // Before MPI ends.
                COMMUNICATOR.take();
            };
            let thread = thread::Builder::new().name("exchanges".into()).spawn(work);
            let thread = thread.expect("the operating system starts a thread");
            // All processes make the second communicator together, before they use the first.
            is_ready.recv().expect("the thread is alive");
            (Mutex::new(sender), thread)
        });
        Some(World { group, background, universe: Some(Mutex::new(universe)) })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.background.take() {
            drop(sender);
            // A panic has been printed.
            let _ = thread.join();
        }
        self.universe.take();
    }
}

impl Communicator for World {
    fn rank(&self) -> usize {
        self.group.rank
    }

    fn size(&self) -> usize {
        self.group.size
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize]) -> Vec<f32> {
        self.group.all_gather(own, lengths)
    }

    fn all_to_all(&self, own: &[f32], to: &[usize], from: &[usize]) -> Vec<f32> {
        self.group.all_to_all(own, to, from)
    }

    fn all_gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>> {
        self.group.all_gather_bytes(own)
    }

    fn in_background(&self, exchange: Exchange) {
        match &self.background {
            Some((sender, _)) => {
                let sender = sender.lock().expect("no thread panics while it holds the sender");
                sender.send(exchange).expect("the thread ends with this communicator");
            }
            None => exchange(&self.group),
        }
    }

    fn traffic(&self) -> Traffic {
        self.group.traffic()
    }
}

thread_local! {
    /// The communicator of a thread that is not the first.
    static COMMUNICATOR: std::cell::RefCell<Option<SimpleCommunicator>> = const { std::cell::RefCell::new(None) };
}

/// The same processes, for one thread.
#[derive(Debug)]
struct Group {
    rank: usize,
    size: usize,
    sent: Arc<AtomicU64>,
    nanoseconds: AtomicU64,
    /// Whether it waits without keeping a core busy.
    is_patient: bool,
}

impl Group {
    /// Calls MPI, and counts the time and the bytes that are sent.
    fn exchange(&self, bytes: usize, call: impl FnOnce(&SimpleCommunicator)) {
        let start = Instant::now();
        COMMUNICATOR.with_borrow(|own| match own {
            Some(own) => call(own),
            None => call(&SimpleCommunicator::world()),
        });
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
        self.exchange(bytes, |group| match self.is_patient {
            true => scope(|scope| complete(group.immediate_all_gather_varcount_into(scope, own, &mut parts))),
            false => group.all_gather_varcount_into(own, &mut parts),
        });
        all
    }
}

/// Waits for a request without keeping a core busy.
fn complete<'a, D: ?Sized, S: Scope<'a>>(mut request: Request<'a, D, S>) {
    while let Err(pending) = request.test() {
        request = pending;
        thread::sleep(POLL);
    }
}

/// Lengths of parts in the types of MPI, and where each part starts.
fn counts(lengths: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let count = |length: usize| Count::try_from(length).expect("a message has fewer than 2³¹ values");
    let starts = lengths.iter().scan(0, |start, length| Some(std::mem::replace(start, *start + length)));
    (lengths.iter().map(|&length| count(length)).collect(), starts.map(count).collect())
}

impl Communicator for Group {
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
        self.exchange(bytes, |group| match self.is_patient {
            true => scope(|scope| complete(group.immediate_all_to_all_varcount_into(scope, &own, &mut parts))),
            false => group.all_to_all_varcount_into(&own, &mut parts),
        });
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

    fn in_background(&self, exchange: Exchange) {
        exchange(self);
    }

    fn traffic(&self) -> Traffic {
        let [bytes, nanoseconds] = [&*self.sent, &self.nanoseconds].map(|count| count.load(Ordering::Relaxed));
        Traffic { bytes, seconds: nanoseconds as f64 / 1e9 }
    }
}

/// Ends all processes.
pub fn abort(code: u8) -> ! {
    SimpleCommunicator::world().abort(code.into())
}

//! The processes of MPI, through the crate `mpi`: the only part of the program that knows it.
//!
//! Two threads of a process call MPI, each with a communicator of its own, so that the exchange of gradients overlaps with
//! the backward pass: the one that runs the subcommand, and one for [`Communicator::in_background`]. The latter must not keep
//! a core busy while it waits, as MPI's blocking calls do; it looks from time to time whether an exchange is complete.
//!
//! The communicators of the crate cannot be passed to another thread, so each thread keeps its own ones.

use crate::processes::{Communicator, Exchange, Traffic};
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::request::{Request, Scope, scope};
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Destination as _, Equivalence, Source as _};
use mpi::{Count, Tag, Threading};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the background looks whether an exchange is complete.
const POLL: Duration = Duration::from_micros(100);

/// The tag of what a process tells the others.
const TOLD: Tag = 1;

/// The processes that the launcher started together, or a group of them.
pub struct World {
    group: Group,
    /// The number of this process among all.
    started_as: usize,
    /// Exchanges for the other thread; `None` if this MPI library does not support two threads.
    background: Option<(Mutex<Sender<Exchange>>, JoinHandle<()>)>,
    /// The groups of this process. They end with the whole and not before: to free a communicator is a common decision.
    groups: Mutex<Vec<Arc<World>>>,
    /// MPI ends when this is dropped; `None` in a group.
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
        let is_threaded = threading == Threading::Multiple;
        let mut whole = World::of(is_threaded, || SimpleCommunicator::world().duplicate());
        whole.universe = Some(Mutex::new(universe));
        Some(whole)
    }

    /// The processes of a new communicator, which both threads make, one after the other.
    fn of(is_threaded: bool, make: impl Fn() -> SimpleCommunicator + Send + 'static) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let keep = move |own| COMMUNICATORS.with_borrow_mut(|all| drop(all.insert(number, own)));
        let own = make();
        let rank = |rank: i32| usize::try_from(rank).expect("ranks are not negative");
        let (rank, size) = (rank(own.rank()), rank(own.size()));
        keep(own);
        let sent = Arc::<AtomicU64>::default();
        let group = |is_patient| {
            let (sent, nanoseconds) = (sent.clone(), AtomicU64::new(0));
            Group { number, rank, size, sent, nanoseconds, is_patient }
        };
        let background = is_threaded.then(|| {
            let ((sender, receiver), (ready, is_ready)) = (channel::<Exchange>(), channel());
            let group = group(true);
            let work = move || {
                keep(make());
                let _ = ready.send(());
                receiver.iter().for_each(|exchange| exchange(&group));
                // Before MPI ends.
                COMMUNICATORS.take();
            };
            let thread = thread::Builder::new().name("exchanges".into()).spawn(work);
            let thread = thread.expect("the operating system starts a thread");
            // All processes make the second communicator together, before they use the first.
            is_ready.recv().expect("the thread is alive");
            (Mutex::new(sender), thread)
        });
        let started_as = SimpleCommunicator::world().rank().unsigned_abs() as usize;
        World { group: group(false), started_as, background, groups: Mutex::default(), universe: None }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.groups.get_mut().expect("no thread panics while it holds the groups").clear();
        if let Some((sender, thread)) = self.background.take() {
            drop(sender);
            // A panic has been printed.
            let _ = thread.join();
        }
        COMMUNICATORS.with_borrow_mut(|all| drop(all.remove(&self.group.number)));
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

    fn split(&self, number: usize) -> Arc<dyn Communicator> {
        assert!(self.universe.is_some(), "a group cannot be split again");
        let number = Color::with_value(i32::try_from(number).expect("there are fewer than 2³¹ groups"));
        let make = move || SimpleCommunicator::world().split_by_color(number).expect("this process is in a group");
        let group = Arc::new(World::of(self.background.is_some(), make));
        self.groups.lock().expect("no thread panics while it holds the groups").push(group.clone());
        group
    }

    fn started_as(&self) -> usize {
        self.started_as
    }

    fn tell(&self, byte: u8) {
        self.group.tell(byte);
    }

    fn told(&self) -> Option<u8> {
        self.group.told()
    }

    fn traffic(&self) -> Traffic {
        self.group.traffic()
    }
}

thread_local! {
    /// The communicators of this thread, by the numbers of their groups.
    static COMMUNICATORS: RefCell<HashMap<usize, SimpleCommunicator>> = RefCell::default();
}

/// The same processes, for one thread.
#[derive(Debug)]
struct Group {
    number: usize,
    rank: usize,
    size: usize,
    sent: Arc<AtomicU64>,
    nanoseconds: AtomicU64,
    /// Whether it waits without keeping a core busy.
    is_patient: bool,
}

impl Group {
    /// Calls MPI.
    fn with<R>(&self, call: impl FnOnce(&SimpleCommunicator) -> R) -> R {
        COMMUNICATORS.with_borrow(|all| call(all.get(&self.number).expect("used by the thread that made it")))
    }

    /// Calls MPI, and counts the time and the bytes that are sent.
    fn exchange(&self, bytes: usize, call: impl FnOnce(&SimpleCommunicator)) {
        let start = Instant::now();
        self.with(call);
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

    fn split(&self, _: usize) -> Arc<dyn Communicator> {
        unreachable!("the processes are not split during an exchange")
    }

    fn tell(&self, byte: u8) {
        // MPI libraries send a single byte without waiting for its receiver.
        let send = |own: &SimpleCommunicator, rank| own.process_at_rank(rank).send_with_tag(&byte, TOLD);
        self.with(|own| (0..own.size()).filter(|&rank| rank != own.rank()).for_each(|rank| send(own, rank)));
    }

    fn told(&self) -> Option<u8> {
        let (message, _) = self.with(|own| own.any_process().immediate_matched_probe_with_tag(TOLD))?;
        Some(message.matched_receive::<u8>().0)
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

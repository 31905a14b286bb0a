//! A team of threads that wait for work without sleeping, for a little while.

use crate::team::Team;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::vec::Vec;
use std::{fmt, hint, io, ptr, string::String};

/// Turns of waiting for work before a thread goes to sleep: some tens of microseconds, longer than the pauses inside a step, shorter than
/// those between the samples of a sensor.
const SPINS: u32 = 20_000;
/// Turns of waiting for the others before the caller lets another thread have its core: theirs may have been taken away.
const SPINS_BEFORE_YIELD: u32 = 2_000;

/// The work may be joined; see [`Shared::gate`].
const OPEN: usize = 1 << (usize::BITS - 1);

/// Threads that share the work of a step. They spin between the parts of a step and sleep between steps that are far apart.
///
/// One step at a time uses the pool; a second session that steps meanwhile on another thread does its work alone.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<(Thread, JoinHandle<()>)>,
}

type Task<'w> = dyn Fn(usize) + Sync + 'w;

struct Shared {
    /// Whether a step uses the pool.
    is_busy: AtomicBool,
    call: Apart<Call>,
    work: Apart<Work>,
    size: usize,
    /// For each thread but the caller, whether it sleeps.
    asleep: Vec<AtomicBool>,
    /// Whether some part panicked.
    panicked: AtomicBool,
}

/// On cache lines of its own: while threads look at something again and again, what is written beside it would go from core to core each time.
#[repr(align(128))]
struct Apart<T>(T);

/// What waiting threads look at.
struct Call {
    /// Counts pieces of work.
    epoch: AtomicUsize,
    is_over: AtomicBool,
}

/// The work of the moment.
struct Work {
    place: Slot,
    /// Its parts.
    parts: AtomicUsize,
    /// The next part that nobody has begun.
    next: AtomicUsize,
    /// How many threads are at the work, and [`OPEN`] while others may join them. One that comes too late, because its core was taken
    /// away, is not waited for: the caller has done its parts.
    gate: AtomicUsize,
}

/// Where the work is.
struct Slot(std::cell::UnsafeCell<*const Task<'static>>);

#[allow(unsafe_code)]
// SAFETY: it is written while the gate is shut and nobody inside, and read inside alone; the work itself is `Sync`.
unsafe impl Sync for Slot {}
#[allow(unsafe_code)]
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Slot {}

impl Pool {
    /// A team of `size` threads, the caller among them: `size - 1` are started.
    pub fn new(size: usize) -> io::Result<Self> {
        let size = size.max(1);
        fn nothing(_: usize) {}
        let nothing: &'static Task<'static> = &nothing;
        let shared = Arc::new(Shared {
            is_busy: AtomicBool::new(false),
            call: Apart(Call { epoch: AtomicUsize::new(0), is_over: AtomicBool::new(false) }),
            work: Apart(Work {
                place: Slot(std::cell::UnsafeCell::new(ptr::from_ref(nothing))),
                parts: AtomicUsize::new(0),
                next: AtomicUsize::new(0),
                gate: AtomicUsize::new(0),
            }),
            size,
            asleep: (1..size).map(|_| AtomicBool::new(false)).collect(),
            panicked: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, threads: Vec::new() };
        for number in 1..size {
            let shared = Arc::clone(&pool.shared);
            let name: String = std::format!("brooklet-{number}");
            let handle = thread::Builder::new().name(name).spawn(move || shared.serve(number))?;
            pool.threads.push((handle.thread().clone(), handle));
        }
        Ok(pool)
    }

    fn wake(&self) {
        for ((thread, _), asleep) in self.threads.iter().zip(&self.shared.asleep) {
            // The thread says that it sleeps before it looks for work once more: one of the two sees the other.
            if asleep.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }
}

impl Team for Pool {
    fn size(&self) -> usize {
        self.shared.size
    }

    fn run(&self, parts: usize, work: &Task<'_>) {
        let shared = &*self.shared;
        let has_threads = shared.size > 1 && !shared.panicked.load(Ordering::Relaxed);
        if !has_threads || parts <= 1 || shared.is_busy.swap(true, Ordering::Acquire) {
            return (0..parts).for_each(work);
        }
        // Even if the caller's own part panics, `work` must outlive the others' use of it.
        let leave = Leave(shared);
        #[allow(unsafe_code)]
        // SAFETY: `leave` is dropped before this function returns or unwinds, shuts the gate and waits until nobody is inside: the longer
        // lifetime is never made use of. For the write see `Slot`: the gate is shut, and `is_busy` keeps other callers away.
        unsafe {
            *shared.work.0.place.0.get() = std::mem::transmute::<*const Task<'_>, *const Task<'static>>(ptr::from_ref(work));
        }
        shared.work.0.parts.store(parts, Ordering::Relaxed);
        shared.work.0.next.store(0, Ordering::Relaxed);
        shared.work.0.gate.store(OPEN, Ordering::Release);
        shared.call.0.epoch.fetch_add(1, Ordering::SeqCst);
        self.wake();
        shared.take_parts(work);
        drop(leave);
        assert!(!shared.panicked.load(Ordering::Relaxed), "a thread of the pool panicked");
    }
}

/// Shuts the gate and waits for the threads inside, however the caller's own work ends.
struct Leave<'p>(&'p Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.work.0.gate.fetch_and(!OPEN, Ordering::Relaxed);
        let mut spins = 0;
        while self.0.work.0.gate.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD { hint::spin_loop() } else { thread::yield_now() }
        }
        self.0.is_busy.store(false, Ordering::Release);
    }
}

/// Leaves the gate behind, however a thread's work ends.
struct Finish<'p>(&'p Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
        self.0.work.0.gate.fetch_sub(1, Ordering::Release);
    }
}

impl Shared {
    /// Does parts that nobody has begun until there are none.
    fn take_parts(&self, work: &Task<'_>) {
        let parts = self.work.0.parts.load(Ordering::Relaxed);
        loop {
            let part = self.work.0.next.fetch_add(1, Ordering::Relaxed);
            if part >= parts {
                return;
            }
            work(part);
        }
    }

    /// What thread `number` does until the pool is dropped.
    fn serve(&self, number: usize) {
        let mut done = 0;
        while let Some(epoch) = self.wait(number, done) {
            done = epoch;
            let enter = |gate: usize| (gate & OPEN != 0).then_some(gate + 1);
            if self.work.0.gate.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
                continue;
            }
            let finish = Finish(self);
            #[allow(unsafe_code)]
            // SAFETY: this thread is inside the gate: the caller of `run` waits for it, so that the work is still there, and nobody writes it.
            let work = unsafe { &**self.work.0.place.0.get() };
            self.take_parts(work);
            drop(finish);
        }
    }

    /// Waits until there is other work than `done`; `None` when the pool is dropped.
    fn wait(&self, number: usize, done: usize) -> Option<usize> {
        let asleep = &self.asleep[number - 1];
        let mut spins = 0;
        loop {
            if self.call.0.is_over.load(Ordering::SeqCst) {
                return None;
            }
            let epoch = self.call.0.epoch.load(Ordering::SeqCst);
            if epoch != done {
                // Written only after a sleep: the caller reads it for each piece of work.
                if spins >= SPINS {
                    asleep.store(false, Ordering::Relaxed);
                }
                return Some(epoch);
            }
            spins += 1;
            if spins < SPINS {
                hint::spin_loop();
            } else if asleep.swap(true, Ordering::SeqCst) {
                thread::park();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.call.0.is_over.store(true, Ordering::SeqCst);
        for (thread, handle) in self.threads.drain(..) {
            thread.unpark();
            // A panic in a part was already reported by `run`.
            let _ = handle.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool of {}", self.shared.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once() {
        for size in 1..5 {
            let pool = Pool::new(size).unwrap();
            for parts in 0..9 {
                let counts: [AtomicUsize; 9] = Default::default();
                for _ in 0..50 {
                    pool.run(parts, &|part| {
                        counts[part].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().enumerate().all(|(part, n)| n.load(Ordering::Relaxed) == if part < parts { 50 } else { 0 }));
            }
        }
    }

    #[test]
    fn sleeping_threads_wake_up_and_nested_work_is_done_alone() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(5));
            pool.run(3, &|_| {
                pool.run(2, &|_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
            });
        }
        assert_eq!(count.into_inner(), 30);
    }
}

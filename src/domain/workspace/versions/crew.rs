//! The threads of a look: they take directories from one heap until there are none left.

use std::{
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::AtomicBool},
};

use super::{
    super::{figures::Figures, rules::InForce},
    Lack,
    assemble::Seen,
    links::Links,
    manifest::Dir,
    scan::Scan,
};

/// A directory that is to be looked at.
pub(super) struct Job {
    pub above: Arc<OwnedFd>,
    pub name: OsString,
    pub path: PathBuf,
    pub depth: usize,
    pub known: Option<Arc<Dir>>,
    pub rules: InForce,
    /// A rule above has changed: what was not ignored may be now.
    pub rematch: bool,
    /// Where the answer goes.
    pub slot: usize,
}

#[derive(Default)]
pub(super) struct Queue {
    pub jobs: Vec<Job>,
    /// Jobs that wait or are worked on.
    pub open: usize,
    pub slots: Vec<Option<Seen>>,
    pub lacks: Vec<Lack>,
    pub links: Links,
    /// Directories that have become repositories, or have ceased to be.
    pub repositories: Vec<(Vec<u8>, Option<Option<Figures>>)>,
    /// Large files, for when all else is known.
    pub late: Vec<Vec<u8>>,
    pub failure: Option<io::Error>,
}

pub(super) struct Shared<'a> {
    pub scan: &'a Scan<'a>,
    pub queue: Mutex<Queue>,
    pub more: Condvar,
    pub ignored: AtomicBool,
}

impl Shared<'_> {
    /// Takes directories until there are none left.
    pub(super) fn work(&self) {
        let outcome = (|| {
            let store = self.scan.objects.store()?;
            let keeper = store.keeper(self.scan.borrows())?;
            while let Some(job) = self.next() {
                // A panic here would leave the other threads waiting: the guard ends them.
                let guard = Working(self);
                let outcome = self.look(&keeper, &job);
                std::mem::forget(guard);
                self.finished(outcome.err());
            }
            Ok(())
        })();
        if let Err(error) = outcome {
            let mut queue = self.lock();
            queue.failure.get_or_insert(error);
            self.more.notify_all();
        }
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.open == 0 || queue.failure.is_some() {
                return None;
            }
            if let Some(job) = queue.jobs.pop() {
                return Some(job);
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, failure: Option<io::Error>) {
        let mut queue = self.lock();
        queue.open -= 1;
        if let Some(failure) = failure {
            queue.failure.get_or_insert(failure);
        }
        if queue.open == 0 || queue.failure.is_some() {
            self.more.notify_all();
        }
    }
}

/// Ends the look when the thread that holds it panics.
struct Working<'a, 'b>(&'a Shared<'b>);

impl Drop for Working<'_, '_> {
    fn drop(&mut self) {
        self.0.finished(Some(io::Error::other("a thread that looked at the workspace panicked")));
    }
}

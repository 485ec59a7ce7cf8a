//! What a version should hold and does not, and the limits that may be the reason.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Most entries of what a version lacks; past it whole directories are named.
const MAX_LACKS: usize = 1000;

/// A path that a version says nothing about: it may be there or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::domain) struct Lack {
    /// Relative to the root.
    pub path: Vec<u8>,
    /// Whether it means all that is below the path too.
    pub below: bool,
    pub reason: LackReason,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::domain) enum LackReason {
    /// A rule ignores it now; it was in a version before.
    Ignored,
    /// The time of the look was over.
    Time,
    /// The bytes that a look may read were used up.
    Bytes,
    /// The file system refused to let it be read.
    Unreadable,
    /// It changed while it was read.
    Changing,
    /// It lies below too many directories.
    TooDeep,
    /// A submodule, whose files the user's repository does not have.
    Submodule,
}

/// Every reason, for reading them back.
const REASONS: [LackReason; 7] = [
    LackReason::Ignored,
    LackReason::Time,
    LackReason::Bytes,
    LackReason::Unreadable,
    LackReason::Changing,
    LackReason::TooDeep,
    LackReason::Submodule,
];

impl LackReason {
    /// The word that clients see.
    pub(in crate::domain) fn as_str(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Time => "time",
            Self::Bytes => "bytes",
            Self::Unreadable => "unreadable",
            Self::Changing => "changing",
            Self::TooDeep => "too_deep",
            Self::Submodule => "submodule",
        }
    }
}

impl Lack {
    pub(super) fn file(path: Vec<u8>, reason: LackReason) -> Self {
        Self { path, below: false, reason }
    }

    pub(super) fn below(path: Vec<u8>, reason: LackReason) -> Self {
        Self { path, below: true, reason }
    }

    /// Whether it means that path.
    pub(in crate::domain) fn covers(&self, path: &[u8]) -> bool {
        if self.path == path || (self.below && self.path.is_empty()) {
            return true;
        }
        self.below && path.strip_prefix(self.path.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

/// The list sorted, without repetition, and not too long.
pub(super) fn bounded(mut lacks: Vec<Lack>) -> Vec<Lack> {
    let mut depth = 8;
    loop {
        lacks.sort();
        lacks.dedup();
        if lacks.len() <= MAX_LACKS {
            return lacks;
        }
        for lack in &mut lacks {
            let parts: Vec<&[u8]> = lack.path.split(|byte| *byte == b'/').collect();
            if parts.len() > depth {
                (lack.path, lack.below) = (parts[..depth].join(&b'/'), true);
            }
        }
        if depth == 0 {
            lacks.truncate(1);
            lacks.iter_mut().for_each(|lack| (lack.path, lack.below) = (Vec::new(), true));
        }
        depth = depth.saturating_sub(1);
    }
}

/// As bytes, for its row.
pub(in crate::domain) fn lacks_to(lacks: &[Lack]) -> Vec<u8> {
    let mut out = Vec::new();
    for lack in lacks {
        let reason = REASONS.iter().position(|known| *known == lack.reason).unwrap_or_default();
        out.extend([reason as u8, u8::from(lack.below)]);
        out.extend_from_slice(&lack.path);
        out.push(0);
    }
    out
}

/// And back.
pub(in crate::domain) fn lacks_from(mut bytes: &[u8]) -> Vec<Lack> {
    let mut lacks = Vec::new();
    while let [reason, below, rest @ ..] = bytes {
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        if let Some(reason) = REASONS.get(usize::from(*reason)) {
            lacks.push(Lack { path: rest[..end].to_vec(), below: *below != 0, reason: *reason });
        }
        bytes = rest.get(end + 1..).unwrap_or_default();
    }
    lacks
}

/// What a look may take.
#[derive(Debug)]
pub(in crate::domain) struct Limits {
    deadline: Option<Instant>,
    bytes: AtomicU64,
}

impl Limits {
    /// So long and so many bytes.
    pub(in crate::domain) fn new(time: Duration, bytes: u64) -> Self {
        Self { deadline: Instant::now().checked_add(time), bytes: AtomicU64::new(bytes) }
    }

    /// None at all.
    pub(in crate::domain) fn none() -> Self {
        Self { deadline: None, bytes: AtomicU64::new(u64::MAX) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether so many bytes may still be read; if so they are counted.
    pub(super) fn take(&self, bytes: u64) -> bool {
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lacks_cover_and_come_back_and_stay_few() {
        let below = Lack::below(b"a/b".to_vec(), LackReason::Time);
        assert!(below.covers(b"a/b") && below.covers(b"a/b/c") && !below.covers(b"a/bc") && !below.covers(b"a"));
        let file = Lack::file(b"x\xff".to_vec(), LackReason::Unreadable);
        assert!(file.covers(b"x\xff") && !file.covers(b"x\xff/y"));
        let all = Lack::below(Vec::new(), LackReason::Bytes);
        assert!(all.covers(b"anything"));
        let list = vec![below, file, all];
        assert_eq!(lacks_from(&lacks_to(&list)), list);
        let many = (0..5000).map(|n| Lack::file(format!("d{}/e{n}/f", n % 7).into_bytes(), LackReason::Time)).collect();
        let few = bounded(many);
        assert_eq!(few.len(), 7);
        assert!(few[0].below && few[0].covers(b"d0/e7/f"));
    }
}

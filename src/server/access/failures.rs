//! Wrong tokens, counted by address, so that nobody tries them out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::FAILURES;

/// Most addresses that are known; past it those whose time is over go, and then all.
const MAX_ADDRESSES: usize = 4096;

/// The failures of a while.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, Window>>);

struct Window {
    began: Instant,
    count: u32,
}

impl Failures {
    /// Counts one; answers how long to wait where there were too many.
    pub(super) fn count(&self, address: Option<IpAddr>) -> Option<Duration> {
        let (length, most) = FAILURES;
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_ADDRESSES {
            known.retain(|_, window| now.duration_since(window.began) < length);
            if known.len() >= MAX_ADDRESSES {
                known.clear();
            }
        }
        let window = known.entry(place(address)).or_insert(Window { began: now, count: 0 });
        if now.duration_since(window.began) >= length {
            *window = Window { began: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        (window.count > most).then(|| length.saturating_sub(now.duration_since(window.began)))
    }
}

/// Who has one IPv6 address has all of its network.
fn place(address: Option<IpAddr>) -> IpAddr {
    match address.map(|address| address.to_canonical()) {
        None => Ipv4Addr::UNSPECIFIED.into(),
        Some(IpAddr::V4(address)) => address.into(),
        Some(IpAddr::V6(address)) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_minute_each_and_no_more_memory_than_is_said() {
        let failures = Failures::default();
        let address = |last: u32| Some(IpAddr::from(Ipv4Addr::from_bits(last)));
        for _ in 0..10 {
            assert_eq!(failures.count(address(1)), None);
        }
        assert!(failures.count(address(1)).is_some_and(|wait| wait > Duration::from_secs(50)));
        assert_eq!(failures.count(address(2)), None, "another address");
        for last in 0..10_000 {
            let _ = failures.count(address(last));
        }
        assert!(failures.0.lock().expect("the map").len() <= MAX_ADDRESSES);
    }
}

//! A power cut, as far as it can be had without one: what the log had written behind its last sync is gone. Each commit
//! with an act is synced; so the write-ahead log may end anywhere behind the last act that somebody has seen.

use std::{fs, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::dice::Dice;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Cuts the write-ahead log of a server that was killed, at a random place at which the event `act` and all before it
/// is still there. Answers the last event that is left.
pub fn cut(data_dir: &Path, act: u64, dice: &mut Dice) -> u64 {
    let wal = data_dir.join("log.sqlite3-wal");
    let bytes = fs::read(&wal).expect("the write-ahead log");
    let ends = commits(&bytes, copied(data_dir));
    let all = held(data_dir, &bytes);
    // The ends of commits that hold it, the whole log at the least; each start syncs its epoch before it answers.
    let holds = |held: Held| held.head >= act && held.epochs == all.epochs;
    let good = ends.iter().filter(|end| holds(held(data_dir, &bytes[..**end]))).count();
    if good == 0 {
        return all.head;
    }
    let first = ends.len() - good;
    let kept = first + dice.below(good as u64) as usize;
    // What lies behind it is half a commit, which is none.
    let next = ends.get(kept + 1).copied().unwrap_or(bytes.len());
    let end = ends[kept] + dice.below((next - ends[kept]).max(1) as u64) as usize;
    fs::write(&wal, &bytes[..end]).expect("a shorter log");
    // The index of the log is memory, and gone with it.
    let _ = fs::remove_file(data_dir.join("log.sqlite3-shm"));
    held(data_dir, &bytes[..ends[kept]]).head
}

/// Where each commit of the log ends that is not copied into the file yet.
fn commits(bytes: &[u8], copied: usize) -> Vec<usize> {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if bytes.len() < HEADER {
        return Vec::new();
    }
    let frame = FRAME_HEADER + word(8) as usize;
    let salt = &bytes[16..24];
    let frames = (0..).map(|index| HEADER + index * frame).take_while(|at| at + frame <= bytes.len());
    // Behind the first frame of an older round nothing counts.
    let frames = frames.take_while(|at| &bytes[at + 8..at + 16] == salt);
    frames
        .filter(|at| word(at + 4) != 0)
        .map(|at| at + frame)
        .skip_while(|end| *end < HEADER + copied * frame)
        .collect()
}

/// How many frames are copied into the file: below them nothing can be lost.
fn copied(data_dir: &Path) -> usize {
    let index = fs::read(data_dir.join("log.sqlite3-shm")).unwrap_or_default();
    index.get(96..100).map_or(0, |bytes| u32::from_ne_bytes(bytes.try_into().expect("four bytes")) as usize)
}

/// What a log holds.
struct Held {
    /// The last event.
    head: u64,
    /// How many starts.
    epochs: i64,
}

/// What a copy holds with that much of a write-ahead log.
fn held(data_dir: &Path, wal: &[u8]) -> Held {
    let copy = tempfile::tempdir().expect("a folder");
    let file = copy.path().join("log.sqlite3");
    fs::copy(data_dir.join("log.sqlite3"), &file).expect("a copy");
    fs::write(copy.path().join("log.sqlite3-wal"), wal).expect("a copy");
    let log = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_WRITE).expect("a log");
    let number = |sql: &str| log.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_or(0);
    Held {
        head: number("SELECT COALESCE(MAX(seq), 0) FROM events") as u64,
        epochs: number("SELECT COUNT(*) FROM epochs"),
    }
}

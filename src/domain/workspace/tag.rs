//! Tags of files: a hash of the content, remembered as long as the file's figures say that it is still the same.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};

/// Above this many bytes the content is not read: the tag is made of the figures alone.
pub(super) const MAX_HASHED: u64 = 64 * 1024 * 1024;
/// Two changes so close to each other may leave the same times.
const RACY: Duration = Duration::from_millis(50);
/// Tags of one generation; two are kept, some 5 MiB at most.
const GENERATION: usize = 16 * 1024;
/// Times that a file is read again which changes while it is read.
const TRIES: usize = 4;

/// What says that a file has not changed, short of reading it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Figures {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The tags that are known.
#[derive(Default)]
pub(super) struct Tags(Mutex<Known>);

#[derive(Default)]
struct Known {
    new: HashMap<Figures, Digested>,
    old: HashMap<Figures, Digested>,
}

type Digested = [u8; 16];

impl Tags {
    /// The tag of an open file, and what the system says of the very file that was tagged. Reads it, from its
    /// beginning, where its tag is not known.
    pub(super) fn of(&self, file: &File) -> io::Result<(String, Metadata)> {
        let mut metadata = file.metadata()?;
        for _ in 0..TRIES {
            let figures = Figures::of(&metadata);
            if metadata.len() > MAX_HASHED {
                return Ok((of_figures(&metadata), metadata));
            }
            if let Some(known) = self.known(&figures) {
                return Ok((text(&known), metadata));
            }
            let began = SystemTime::now();
            let hash = hash(file)?;
            let after = file.metadata()?;
            if Figures::of(&after) == figures {
                if figures.settled(began) {
                    self.remember(figures, hash);
                }
                return Ok((text(&hash), after));
            }
            metadata = after;
        }
        // It changes all the time: what it holds has no name.
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn known(&self, figures: &Figures) -> Option<Digested> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.new.get(figures).or_else(|| known.old.get(figures)).copied()
    }

    fn remember(&self, figures: Figures, hash: Digested) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.new.len() >= GENERATION {
            known.old = std::mem::take(&mut known.new);
        }
        known.new.insert(figures, hash);
    }
}

impl Figures {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change after `began` must show in the times.
    fn settled(&self, began: SystemTime) -> bool {
        let at = |(seconds, nanos): (i64, i64)| {
            let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
            UNIX_EPOCH.checked_add(since + RACY)
        };
        [self.modified, self.changed].into_iter().all(|time| at(time).is_some_and(|time| time <= began))
    }
}

/// The tag of a file that is too large to be read for it.
pub(super) fn of_figures(metadata: &Metadata) -> String {
    let mut hash = Sha256::new();
    hash.update(b"figures");
    for figure in [metadata.dev(), metadata.ino(), metadata.size()] {
        hash.update(figure.to_le_bytes());
    }
    for time in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
        hash.update(time.to_le_bytes());
    }
    finish(hash)
}

/// The tag of content that was hashed on its way.
pub(super) fn finish(hash: Sha256) -> String {
    text(&short(hash))
}

fn hash(file: &File) -> io::Result<Digested> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(short(hash)),
            Ok(read) => {
                hash.update(&buffer[..read]);
                offset += read as u64;
                if offset > MAX_HASHED {
                    // It grew over the limit meanwhile, which its figures show.
                    return Ok(short(hash));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn short(hash: Sha256) -> Digested {
    let mut short = Digested::default();
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

fn text(hash: &Digested) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_tag_follows_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let tags = Tags::default();
        let tag = || tags.of(&File::open(&path).unwrap()).unwrap().0;
        fs::write(&path, "one").unwrap();
        let one = tag();
        // Right after each other, with the same size: the times may be the same, the tag may not.
        for number in 0..200 {
            fs::write(&path, if number % 2 == 0 { "two" } else { "one" }).unwrap();
            assert_eq!(tag() == one, number % 2 == 1, "{number}");
        }
    }

    #[test]
    fn what_changed_long_ago_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "content").unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let figures = Figures::of(&metadata);
        assert!(!figures.settled(metadata.modified().unwrap()));
        assert!(figures.settled(metadata.modified().unwrap() + Duration::from_millis(60)));
        let tags = Tags::default();
        let now = File::open(&path).unwrap();
        now.set_modified(SystemTime::now()).unwrap();
        tags.of(&now).unwrap();
        let fresh = Figures::of(&now.metadata().unwrap());
        assert!(tags.known(&fresh).is_none(), "what changed just now is not remembered");
        fs::File::options().write(true).open(&path).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
        let figures = Figures::of(&fs::metadata(&path).unwrap());
        tags.remember(figures, [7; 16]);
        assert_eq!(tags.of(&File::open(&path).unwrap()).unwrap().0, "07".repeat(16), "what is known is not read");
    }
}

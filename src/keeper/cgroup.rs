//! A control group (cgroup v2) for a command, where the system lets us make one: its members are known whatever they do
//! and are killed in one step. It stands beside the process table, which works everywhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The control group of a command. The keeper is not in it.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    folder: PathBuf,
}

impl ControlGroup {
    /// Makes a group and runs `start` in it, so that what that starts is born there. Without a group where none can be
    /// made, which is no failure.
    pub(super) fn around<T>(name: &str, start: impl FnOnce() -> T) -> (T, Option<Self>) {
        let Some(parent) = own() else { return (start(), None) };
        let group = Self { folder: parent.join(name) };
        if fs::create_dir(&group.folder).is_err() {
            return (start(), None);
        }
        let entered = move_here(&group.folder);
        let started = start();
        // Who cannot come back must not kill the group.
        if !entered || !move_here(&parent) {
            group.remove();
            return (started, None);
        }
        (started, Some(group))
    }

    /// The group of this name that a keeper has made, for who goes on without that keeper.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let folder = own()?.join(name);
        folder.is_dir().then_some(Self { folder })
    }

    /// Those in it.
    pub(super) fn pids(&self) -> Vec<u32> {
        let listed = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        // Who is of another namespace is a zero here.
        listed.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
    }

    /// Kills all that are in it, and those who are just being born. Kernels before 5.14 do not know it.
    pub(crate) fn kill(&self) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
    }

    /// Whether nobody is in it, zombies not counted.
    pub(super) fn is_empty(&self) -> bool {
        let events = fs::read_to_string(self.folder.join("cgroup.events")).unwrap_or_default();
        !events.lines().any(|line| line == "populated 1")
    }

    /// Takes the empty group away. One that the command has divided stays behind.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Moves the caller.
fn move_here(folder: &Path) -> bool {
    fs::write(folder.join("cgroup.procs"), "0").is_ok()
}

/// The folder of the caller's own group.
fn own() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    folder(&groups, &mounts)
}

/// Of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn folder(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if !kind.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        // What is mounted may begin below the top, and then shows nothing of what is above.
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(&place.replace("\\040", " ")).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_below_its_mount() {
        let mounts = "24 1 0:21 / /sys rw - sysfs sysfs rw\n\
            40 24 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            41 24 0:31 / /sys/fs/my\\040group rw,relatime shared:3 - cgroup2 cgroup2 rw\n";
        let groups = "8:pids:/a\n0::/user/one\n";
        assert_eq!(folder(groups, mounts), Some("/sys/fs/my group/user/one".into()));
        assert_eq!(folder("0::/\n", mounts), Some("/sys/fs/my group".into()));
        assert_eq!(folder("8:pids:/a\n", mounts), None);
        let inside = mounts.replace("0:31 / ", "0:31 /user ");
        assert_eq!(folder(groups, &inside), Some("/sys/fs/my group/one".into()));
        assert_eq!(folder("0::/../else\n", &inside), None);
    }
}

//! Listening for changes is to find what a look at every file finds, and where it cannot, such a look is made.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    baselines::put,
    changes::assert_same_as_git,
    support::{
        Dialect, Gate, Model, Server, Setup, Step,
        edits::{Dice, change},
        model::text,
        repo::{command, git},
        until,
    },
};

/// A workspace in which nothing is found by the clock.
fn setup() -> Setup {
    Setup::new().env("OPENCODE_VERSION_WATCH_SECONDS", 3600)
}

/// A folder beside the workspace, on the same disk.
fn beside(setup: &Setup) -> PathBuf {
    let folder = setup.folder("beside");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn modified(paths: &[&str]) -> Vec<(String, String)> {
    paths.iter().map(|path| ((*path).to_owned(), "modified".to_owned())).collect()
}

#[tokio::test]
async fn a_write_through_another_name_is_seen() {
    let setup = setup();
    let workspace = setup.workspace();
    for name in ["top", "a/deep/er", "a/deep/other"] {
        put(&workspace, name, "old\n");
    }
    // In git and ignored all the same.
    put(&workspace, "ignored/tracked", "old\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "First"]);
    put(&workspace, ".gitignore", "ignored/\n");
    let names = ["a/deep/er", "a/deep/other", "ignored/tracked", "top"];
    let elsewhere = |name: &str| beside(&setup).join(name.replace('/', "-"));
    for name in names {
        fs::hard_link(workspace.join(name), elsewhere(name)).expect("a link");
    }
    let server = setup.start();
    let first = server.version().await;
    for name in names {
        fs::write(elsewhere(name), "new\n").expect("a file");
        let since = server.newest_version().await;
        assert!(server.changed_since(&first).await.contains(&(name.into(), "modified".into())), "{name} {since}");
    }
    assert_eq!(server.changed_since(&first).await, modified(&names));
    // With one name left it is as any other.
    fs::remove_file(elsewhere("top")).expect("a file");
    server.version().await;
    put(&workspace, "top", "newest\n");
    assert_eq!(server.newest_version().await["files_changed"], 1);
    assert_same_as_git_but_ignored(&server).await;
}

/// What git ignores and tracks is not in the tree that is made without an index.
async fn assert_same_as_git_but_ignored(server: &Server) {
    fs::remove_dir_all(server.workspace().join("ignored")).expect("a folder");
    assert_same_as_git(server, &server.newest_version().await, "linked");
}

/// Names inside of the workspace, which come and go while it is listened to.
#[tokio::test]
async fn a_name_that_a_file_gets_is_one_more_to_look_at() {
    let server = setup().start();
    let workspace = server.workspace();
    put(&workspace, "one/a", "old\n");
    put(&workspace, "two/other", "old\n");
    let first = server.version().await;
    fs::hard_link(workspace.join("one/a"), workspace.join("two/b")).expect("a link");
    server.version().await;
    // Only the folder of the name that was written through is heard of.
    fs::write(workspace.join("two/b"), "new\n").expect("a file");
    assert_eq!(server.newest_version().await["files_changed"], 2);
    fs::write(workspace.join("one/a"), "newer\n").expect("a file");
    assert_eq!(server.newest_version().await["files_changed"], 2);
    fs::remove_file(workspace.join("one/a")).expect("a file");
    fs::hard_link(workspace.join("two/b"), beside(server.setup()).join("c")).expect("a link");
    server.version().await;
    fs::write(beside(server.setup()).join("c"), "newest\n").expect("a file");
    let changed = server.changes_since(&first).await;
    let found: Vec<_> = changed.iter().map(|it| (&it["path"], &it["type"], &it["new_content"])).collect();
    let [one, two, created, deleted] = ["one/a", "two/b", "created", "deleted"].map(|word| json!(word));
    assert_eq!(found, [(&one, &deleted, &json!(null)), (&two, &created, &json!("newest\n"))]);
}

#[tokio::test]
async fn a_name_that_becomes_one_of_another_file_is_a_new_one() {
    let server = setup().start();
    let workspace = server.workspace();
    put(&workspace, "one/a", "old\n");
    put(&workspace, "two/b", "old\n");
    fs::create_dir(workspace.join("names")).expect("a folder");
    fs::hard_link(workspace.join("one/a"), workspace.join("names/it")).expect("a link");
    server.version().await;
    fs::remove_file(workspace.join("names/it")).expect("a file");
    fs::hard_link(workspace.join("two/b"), workspace.join("names/it")).expect("a link");
    server.version().await;
    fs::write(workspace.join("names/it"), "new\n").expect("a file");
    assert_eq!(server.newest_version().await["files_changed"], 2);
}

#[tokio::test]
async fn where_too_many_files_have_other_names_each_look_is_at_everything() {
    let setup = setup();
    let (workspace, beside) = (setup.workspace(), beside(&setup));
    for number in 0..1100 {
        // Each in a folder of its own: one of them would lead to all that are beside it.
        let name = format!("{number}/file");
        put(&workspace, &name, "old\n");
        fs::hard_link(workspace.join(name), beside.join(number.to_string())).expect("a link");
    }
    let server = setup.start();
    server.version().await;
    for number in 0..1100 {
        fs::write(beside.join(number.to_string()), "new\n").expect("a file");
    }
    assert_eq!(server.newest_version().await["files_changed"], 1100);
}

/// What nobody hears of at all: the file got its other name where nobody listens, and was written through it.
#[tokio::test]
async fn what_nobody_hears_of_is_seen_when_the_last_look_at_everything_is_old() {
    for (seconds, at_once) in [(0, true), (1, false)] {
        let setup = Setup::new().env("OPENCODE_VERSION_WATCH_SECONDS", seconds);
        let server = setup.start();
        let first = server.version().await;
        let other = beside(&setup).join("readme");
        fs::hard_link(server.workspace().join("README.md"), &other).expect("a link");
        fs::write(&other, "# Other\n").expect("a file");
        let changed = async || Some(server.changed_since(&first).await).filter(|changed| !changed.is_empty());
        let found = if at_once { changed().await } else { Some(until("a look at everything", changed).await) };
        assert_eq!(found, Some(modified(&["README.md"])));
    }
}

/// More than the kernel keeps for who does not listen, and then one thing more.
#[tokio::test]
async fn what_the_kernel_could_not_keep_is_looked_for() {
    let mut server = setup().start();
    let workspace = server.workspace();
    put(&workspace, "quiet/file", "old\n");
    fs::create_dir(workspace.join("crowd")).expect("a folder");
    put(&workspace, "crowd/stays", "");
    let first = server.version().await;
    let kept = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a setting of Linux");
    let kept: usize = kept.trim().parse().expect("a number");
    server.pause();
    for number in 0..kept.max(20_000) {
        let file = workspace.join(format!("crowd/{}", number % 10));
        fs::write(&file, "").expect("a file");
        fs::remove_file(file).expect("a file");
    }
    put(&workspace, "quiet/file", "new\n");
    put(&workspace, "later/file", "new\n");
    server.go_on();
    let changed = server.changed_since(&first).await;
    assert_eq!(changed, [("later/file".into(), "created".into()), ("quiet/file".into(), "modified".into())]);
    assert_same_as_git(&server, &server.newest_version().await, "after a crowd");
    // It is listened to again, also where nothing was before.
    put(&workspace, "later/file", "newer\n");
    put(&workspace, "quiet/file", "old\n");
    assert_eq!(server.changed_since(&first).await, [("later/file".into(), "created".into())]);
    assert_same_as_git(&server, &server.newest_version().await, "after that");
}

/// Somebody looks while a turn runs: what came from outside is told all the same when it is over.
#[tokio::test]
async fn what_was_looked_at_in_a_turn_is_told_after_it() {
    let gate = Gate::new();
    let model = Model::start(Dialect::Anthropic, [vec![text("One. "), Step::Wait(gate.clone()), text("Two.")]]).await;
    let server = Setup::with(&model).start();
    server.version().await;
    let mut told = server.rest.stream("/events?types=files_changed").await;
    let begun = server.rest.begin("Say something.").await;
    let path = format!("/turns/{}", begun["id"].as_str().expect("an id"));
    until("the version before", async || server.rest.read(&path).await.get("version_before").cloned()).await;
    put(&server.workspace(), "theirs.txt", "theirs\n");
    let seen = server.rest.read("/files/changes").await;
    assert_eq!(seen["changes"][0]["path"], "theirs.txt");
    gate.open();
    server.rest.ended_turn(&begun["id"]).await;
    let event = told.next().await.json;
    assert_eq!((&event["by"], event.get("turn_id")), (&json!("outside"), None), "{event}");
    assert_eq!(event["files"], json!([{"path": "theirs.txt", "type": "created"}]));
}

/// The names outside of the workspace that its files have.
struct Outside {
    folder: PathBuf,
    count: usize,
}

impl Outside {
    fn names(&self) -> Vec<PathBuf> {
        let mut names: Vec<_> =
            fs::read_dir(&self.folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        names.sort();
        names
    }

    /// One change that the dice say, of the kinds that listening is not made for. One that cannot be done is none.
    fn change(&mut self, dice: &mut Dice, workspace: &Path) {
        let files = files(workspace);
        if files.is_empty() {
            return;
        }
        let file = files[dice.below(files.len())].clone();
        let above = file.parent().expect("a folder");
        let content = format!("{} {}\n", dice.below(1000), "x".repeat(dice.below(50)));
        let _: io::Result<()> = (|| {
            match dice.below(9) {
                // Another name outside; what happens beside it is heard of, so that its folder is looked at.
                0 => {
                    self.count += 1;
                    fs::hard_link(&file, self.folder.join(self.count.to_string()))?;
                    let mark = above.join(format!("mark {}", self.count));
                    fs::write(&mark, content)?;
                    fs::remove_file(mark)
                }
                // Another name inside.
                1 => {
                    let other = &files[dice.below(files.len())];
                    let place = other.with_file_name("linked");
                    let _ = fs::remove_file(&place);
                    fs::hard_link(&file, place)
                }
                // Through a name outside, and one less of them.
                2 | 3 => match self.names() {
                    names if names.is_empty() => Ok(()),
                    names => fs::write(&names[dice.below(names.len())], content),
                },
                4 => match self.names() {
                    names if names.is_empty() => Ok(()),
                    names => fs::remove_file(&names[dice.below(names.len())]),
                },
                // As editors save.
                5 => {
                    let fresh = above.join(".saving");
                    fs::write(&fresh, content)?;
                    fs::rename(fresh, &file)
                }
                // A link takes the place of a file, in one step.
                6 => {
                    let fresh = above.join(".saving");
                    symlink(["a", "..", "/etc/hostname"][dice.below(3)], &fresh)?;
                    fs::rename(fresh, &file)
                }
                7 => fs::set_permissions(&file, Permissions::from_mode([0o600, 0o644, 0o755][dice.below(3)])),
                // A tree from elsewhere.
                _ => {
                    let source = self.folder.with_file_name("source");
                    put(&source, "in/deep/er", &content);
                    put(&source, "top", &content);
                    fs::rename(source, above.join(format!("moved{}", dice.below(5))))
                }
            }
        })();
    }
}

/// The files below a folder, links not among them.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry")) {
            let kind = entry.file_type().expect("a kind");
            if entry.file_name() == ".git" {
            } else if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.insert(entry.path());
            }
        }
    }
    found.into_iter().collect()
}

/// To another state of the workspace and back, as git does it.
fn check_out(dice: &mut Dice, workspace: &Path) {
    git(workspace, &["add", "-A"]);
    git(workspace, &["commit", "-q", "--allow-empty", "-m", "As it is"]);
    let back = format!("HEAD~{}", dice.below(3));
    // The first commits have none so far above them.
    let _ = command(workspace).args(["checkout", "-q", "-f", &back]).output().expect("git runs");
}

/// Rounds of few changes, so that most are listened for; after each, what is known is what git finds.
async fn rounds(seeds: std::ops::Range<u64>) {
    let setup = setup().env("RUST_LOG", "opencode_api=debug");
    let other = setup.folder("other");
    fs::create_dir(&other).expect("a folder");
    let mut outside = Outside { folder: beside(&setup), count: 0 };
    for name in ["a/b/one", "a/two", "three", "a.b/four"] {
        put(&setup.workspace(), name, name);
    }
    let server = setup.start();
    let workspace = server.workspace();
    server.version().await;
    let (rounds, mut linked) = (seeds.end - seeds.start, 0);
    for seed in seeds {
        let mut dice = Dice::new(seed);
        for _ in 0..1 + dice.below(4) {
            match dice.below(8) {
                0..=2 => change(&mut dice, &workspace, &other),
                3 if dice.below(4) == 0 => check_out(&mut dice, &workspace),
                _ => outside.change(&mut dice, &workspace),
            }
        }
        assert_same_as_git(&server, &server.newest_version().await, &format!("seed {seed}"));
        let names = |file: &PathBuf| fs::metadata(file).expect("a file").nlink();
        linked += u64::from(files(&workspace).iter().any(|file| names(file) > 1));
    }
    let log = server.log();
    let looks =
        |what: &str| log.matches(&format!(r#""message":"looking at the workspace","everything":{what}"#)).count();
    let (heard, whole) = (looks("false"), looks("true"));
    assert!(heard as u64 >= rounds / 3, "{heard} looks as heard and {whole} at everything: nothing was tried");
    assert!(linked >= rounds / 4, "files had other names in {linked} rounds of {rounds}");
}

#[tokio::test]
async fn what_is_heard_is_what_a_look_at_everything_finds_1() {
    rounds(5000..5100).await;
}

#[tokio::test]
async fn what_is_heard_is_what_a_look_at_everything_finds_2() {
    rounds(6000..6100).await;
}

//! The first version of workspaces of every kind.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    changes::assert_same_as_git,
    support::{
        Door, Server, Setup,
        repo::{self, bytes_of, git, said, tree},
    },
};

pub fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, content).expect("a file");
    path
}

/// A workspace that is no repository.
pub fn plain() -> Setup {
    let setup = Setup::new();
    fs::remove_dir_all(setup.workspace().join(".git")).expect("a folder");
    setup
}

async fn changes(server: &Server, query: &str) -> Vec<Value> {
    let body = server.rest.read(&format!("/files/changes?{query}")).await;
    body["changes"].as_array().expect("a list").clone()
}

/// Changes everything, and brings it back: what is there then has to be what was there first.
async fn changes_and_comes_back(server: &Server) {
    let first = server.version().await;
    let workspace = server.workspace();
    let before = tree(&workspace);
    for (path, (mode, _)) in &before {
        use std::os::unix::ffi::OsStrExt;
        let path = workspace.join(std::ffi::OsStr::from_bytes(path));
        fs::remove_file(&path).expect("a file");
        if *mode == 0o120_000 {
            fs::write(path, "no link any more\n").expect("a file");
        }
    }
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(done["skipped"], json!([]), "{done}");
    repo::assert_same_tree(&tree(&workspace), &before, "brought back");
    assert_eq!(changes(server, &format!("since_version={first}")).await, Vec::<Value>::new());
}

/// What the user's index and objects have need not be read: with no more than a byte to read, it is known all the same.
#[tokio::test]
async fn a_repository_spares_its_files_the_reading() {
    let setup = Setup::new().env("OPENCODE_VERSION_BYTES", 1);
    let workspace = setup.workspace();
    for name in ["a.txt", "deep/er/b.txt", "changed.txt", "same-size.txt"] {
        put(&workspace, name, "one\n");
    }
    symlink("a.txt", workspace.join("link")).expect("a link");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "First"]);
    // As if it was written a good while later: then no file can have changed unnoticed.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
    fs::File::open(workspace.join(".git/index")).and_then(|index| index.set_modified(later)).expect("a time");
    put(&workspace, "changed.txt", "another one\n");
    put(&workspace, "same-size.txt", "two\n");
    put(&workspace, "untracked.txt", "two\n");
    let server = setup.start();
    let newest = server.newest_version().await;
    let lacks = ["changed.txt", "same-size.txt", "untracked.txt"].map(|path| json!({"path": path, "reason": "bytes"}));
    assert_eq!(newest["left_out"], json!(lacks));
    let mut ls = repo::command(&setup.data_dir().join("versions/reading.git"));
    let listed = said(ls.args(["ls-tree", "-r", "--name-only", newest["tree"].as_str().expect("an id")]));
    assert_eq!(String::from_utf8_lossy(&listed), "README.md\na.txt\ndeep/er/b.txt\nlink\n");
    // No content is stored once more; only trees are.
    let folder = setup.data_dir().join("versions/objects.git");
    let mut stored = 0;
    for below in fs::read_dir(folder.join("objects")).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let start = below.file_name().expect("a name").to_string_lossy().into_owned();
        for object in fs::read_dir(below).expect("a folder").filter(|_| start.len() == 2) {
            let id = format!("{start}{}", object.expect("an entry").file_name().to_string_lossy());
            assert_eq!(said(repo::command(&folder).args(["cat-file", "-t", &id])), b"tree\n");
            stored += 1;
        }
    }
    assert!(stored > 0);
}

#[tokio::test]
async fn a_plain_folder_has_versions() {
    let setup = plain();
    let workspace = setup.workspace();
    put(&workspace, "deep/er/file", "x");
    let server = setup.start();
    assert_same_as_git(&server, &server.newest_version().await, "a plain folder");
    changes_and_comes_back(&server).await;
    let refused = server.through(Door::Rest).get_file_changes(json!({"since_version": "git:HEAD"})).await;
    assert_eq!(refused.expect_err("no repository").code, "not_found");
    // A repository that comes later is seen.
    git(&workspace, &["init", "-q"]);
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "First"]);
    assert_eq!(changes(&server, "since_version=git:HEAD").await, Vec::<Value>::new());
    // And one that goes is not missed.
    fs::remove_dir_all(workspace.join(".git")).expect("a folder");
    assert_same_as_git(&server, &server.newest_version().await, "without its repository");
    changes_and_comes_back(&server).await;
}

#[tokio::test]
async fn an_empty_folder_has_versions() {
    let setup = plain();
    fs::remove_file(setup.workspace().join("README.md")).expect("a file");
    let server = setup.start();
    let first = server.version().await;
    assert_same_as_git(&server, &server.newest_version().await, "an empty folder");
    put(&setup.workspace(), "one/file", "1");
    assert_eq!(server.changed_since(&first).await, [("one/file".into(), "created".into())]);
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(done["changes"], json!([{"path": "one/file", "type": "deleted"}]));
    assert_eq!(fs::read_dir(setup.workspace()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn repositories_below_are_folders_of_files() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    for (name, committed) in [("nested", true), ("bare-of-commits", false), ("deep/nested", true)] {
        let below = workspace.join(name);
        put(&below, "file.txt", format!("in {name}\n"));
        git(&below, &["init", "-q"]);
        if committed {
            git(&below, &["add", "-A"]);
            git(&below, &["commit", "-qm", "First"]);
        }
    }
    // A work tree of the same repository, whose .git is a file.
    git(&workspace, &["worktree", "add", "-q", "-b", "side", "side"]);
    assert!(workspace.join("side/.git").is_file());
    // A submodule, as git makes it.
    let library = setup.folder("library");
    put(&library, "lib.c", "int x;\n");
    git(&library, &["init", "-q"]);
    git(&library, &["add", "-A"]);
    git(&library, &["commit", "-qm", "First"]);
    git(&workspace, &["submodule", "add", "-q", library.to_str().expect("UTF-8"), "sub"]);
    git(&workspace, &["commit", "-qm", "A submodule"]);
    let before = bytes_of(&workspace.join("nested/.git"));
    let server = setup.start();
    let first = server.version().await;
    let newest = server.newest_version().await;
    let mut ls = repo::command(&setup.data_dir().join("versions/reading.git"));
    let listed = said(ls.args(["ls-tree", "-r", "--name-only", newest["tree"].as_str().expect("an id")]));
    let listed = String::from_utf8(listed).expect("UTF-8");
    assert!(
        listed.contains("\nside/README.md\n") && !listed.contains(".git/") && !listed.contains(".git\n"),
        "{listed}"
    );
    for name in ["nested/file.txt", "bare-of-commits/file.txt", "deep/nested/file.txt", "side/README.md", "sub/lib.c"] {
        put(&workspace, name, "changed\n");
    }
    put(&workspace, "sub/new.c", "int y;\n");
    let changed: Vec<_> = server.changed_since(&first).await.into_iter().map(|(path, _)| path).collect();
    let all = [
        "bare-of-commits/file.txt",
        "deep/nested/file.txt",
        "nested/file.txt",
        "side/README.md",
        "sub/lib.c",
        "sub/new.c",
    ];
    assert_eq!(changed, all);
    server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(fs::read(workspace.join("sub/lib.c")).expect("a file"), b"int x;\n");
    assert!(!workspace.join("sub/new.c").exists());
    assert_eq!(bytes_of(&workspace.join("nested/.git")), before);
    // What git knows by a commit alone is neither gone nor new.
    let since_head = changes(&server, "since_version=git:HEAD").await;
    assert!(since_head.iter().all(|change| change["path"] != "sub"), "{since_head:?}");
}

#[tokio::test]
async fn a_work_tree_whose_repository_is_elsewhere_has_versions() {
    let setup = Setup::new();
    let main = setup.folder("main");
    fs::rename(setup.workspace(), &main).expect("a folder");
    git(&main, &["worktree", "add", "-q", "-b", "side", setup.workspace().to_str().expect("UTF-8")]);
    assert!(setup.workspace().join(".git").is_file());
    let before = bytes_of(&main.join(".git"));
    let server = setup.start();
    changes_and_comes_back(&server).await;
    let refused = server.through(Door::Rest).get_file_changes(json!({"since_version": "git:HEAD"})).await;
    assert_eq!(refused.expect_err("nothing beyond the workspace is read").code, "not_found");
    assert_eq!(bytes_of(&main.join(".git")), before);
}

#[tokio::test]
async fn bytes_come_back_whatever_attributes_and_settings_say() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    put(
        &workspace,
        ".gitattributes",
        "*.crlf text eol=crlf\n*.id ident\n*.up filter=upper\n*.auto text=auto\n*.u16 working-tree-encoding=UTF-16\n",
    );
    git(&workspace, &["config", "filter.upper.clean", "tr a-z A-Z"]);
    git(&workspace, &["config", "filter.upper.smudge", "tr A-Z a-z"]);
    put(&workspace, "a.crlf", "one\r\ntwo\r\n");
    put(&workspace, "b.id", "$Id$\nx\n");
    put(&workspace, "c.up", "shout\n");
    put(&workspace, "d.auto", "one\r\ntwo\r\n");
    put(&workspace, "e.u16", b"\xff\xfea\0\n\0");
    put(&workspace, "plain.txt", "plain\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "Attributes"]);
    // As git itself writes them.
    for name in ["a.crlf", "b.id", "c.up", "d.auto", "e.u16"] {
        fs::remove_file(workspace.join(name)).expect("a file");
    }
    git(&workspace, &["checkout", "--", "."]);
    git(&workspace, &["config", "core.autocrlf", "true"]);
    assert!(fs::read_to_string(workspace.join("b.id")).expect("a file").starts_with("$Id: "));
    assert_eq!(git(&workspace, &["status", "--porcelain"]), b"");
    let server = setup.start();
    let body = server.rest.read("/files/changes?since_version=git:HEAD").await;
    assert_eq!((&body["changes"], &body["complete"]), (&json!([]), &json!(true)), "git sees no change");
    changes_and_comes_back(&server).await;
    put(&workspace, "a.crlf", "one\r\nthree\r\n");
    let changed = changes(&server, "since_version=git:HEAD").await;
    let paths: Vec<_> = changed.iter().map(|change| change["path"].as_str().expect("a path")).collect();
    assert!(paths.contains(&"a.crlf") && !paths.contains(&"plain.txt"), "{paths:?}");
}

#[tokio::test]
async fn an_index_is_believed_only_where_it_can_be() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    for name in ["assumed", "skipped", "same-size", "mode", "kind", "conflict", "good"] {
        put(&workspace, name, "1234\n");
    }
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "First"]);
    git(&workspace, &["checkout", "-qb", "other"]);
    put(&workspace, "conflict", "other\n");
    git(&workspace, &["commit", "-qam", "Other"]);
    git(&workspace, &["checkout", "-q", "-"]);
    put(&workspace, "conflict", "mine\n");
    git(&workspace, &["commit", "-qam", "Mine"]);
    assert!(!repo::command(&workspace).args(["merge", "-q", "other"]).output().expect("git runs").status.success());
    git(&workspace, &["update-index", "--assume-unchanged", "assumed"]);
    git(&workspace, &["update-index", "--skip-worktree", "skipped"]);
    // Written after the index, as large as before, and with the old time.
    for name in ["assumed", "skipped", "same-size"] {
        let path = workspace.join(name);
        let old = fs::metadata(&path).expect("a file").modified().expect("a time");
        fs::write(&path, "4321\n").expect("a file");
        fs::File::options().write(true).open(&path).expect("a file").set_modified(old).expect("a time");
    }
    fs::set_permissions(workspace.join("mode"), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::remove_file(workspace.join("kind")).expect("a file");
    symlink("good", workspace.join("kind")).expect("a link");
    let server = setup.start();
    assert_same_as_git(&server, &server.newest_version().await, "a strange index");
    changes_and_comes_back(&server).await;
}

#[tokio::test]
async fn an_index_that_cannot_be_read_is_not_used() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    fs::write(workspace.join(".git/index"), b"DIRC no index at all").expect("a file");
    let server = setup.start();
    assert_same_as_git(&server, &server.newest_version().await, "garbage");
    drop(server);
    for args in [["update-index", "--split-index"], ["update-index", "--index-version=4"], ["sparse-checkout", "init"]]
    {
        let setup = Setup::new();
        let workspace = setup.workspace();
        put(&workspace, "a/b", "b\n");
        git(&workspace, &["add", "-A"]);
        git(&workspace, &["commit", "-qm", "More"]);
        git(&workspace, &args);
        put(&workspace, "a/c", "c\n");
        let server = setup.start();
        assert_same_as_git(&server, &server.newest_version().await, args[1]);
        let since = changes(&server, "since_version=git:HEAD").await;
        assert_eq!((since.len(), &since[0]["path"]), (1, &json!("a/c")), "{args:?} {since:?}");
    }
    // Ids of another length: no revisions, but versions.
    let setup = plain();
    git(&setup.workspace(), &["init", "-q", "--object-format=sha256"]);
    git(&setup.workspace(), &["add", "-A"]);
    git(&setup.workspace(), &["commit", "-qm", "First"]);
    git(&setup.workspace(), &["gc", "-q"]);
    let server = setup.start();
    assert_same_as_git(&server, &server.newest_version().await, "SHA-256");
    changes_and_comes_back(&server).await;
    let refused = server.through(Door::Rest).get_file_changes(json!({"since_version": "git:HEAD"})).await;
    assert_eq!(refused.expect_err("ids of another length").code, "not_found");
}

#[tokio::test]
async fn names_and_links_of_every_kind_come_back() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let setup = plain();
    let workspace = setup.workspace();
    for name in [&b"new\nline"[..], b"\xff\xfe", b"q\"uote", b" space ", b"-dash", "\u{fc}".as_bytes(), b"back\\slash"]
    {
        fs::write(workspace.join(OsStr::from_bytes(name)), name).expect("a file");
    }
    symlink("nowhere", workspace.join("dangling")).expect("a link");
    symlink("/etc/passwd", workspace.join("absolute")).expect("a link");
    symlink("..", workspace.join("up")).expect("a link");
    symlink(OsStr::from_bytes(b"\xff"), workspace.join("link to bytes")).expect("a link");
    put(&workspace, "run.sh", "#!/bin/sh\n");
    fs::set_permissions(workspace.join("run.sh"), fs::Permissions::from_mode(0o755)).expect("a mode");
    said(Command::new("mkfifo").arg(workspace.join("pipe")));
    let server = setup.start();
    changes_and_comes_back(&server).await;
    let first = server.version().await;
    fs::write(workspace.join(OsStr::from_bytes(b"\xff\xfe")), "changed").expect("a file");
    let changed = changes(&server, &format!("since_version={first}")).await;
    assert_eq!(changed[0]["path"], "\u{fffd}\u{fffd}");
    assert!(fs::symlink_metadata(workspace.join("pipe")).is_ok());
}

#[tokio::test]
async fn a_repository_of_another_user_is_read() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    // Only root can give a file away.
    let is_given =
        Command::new("chown").args(["-R", "12345:12345"]).arg(&workspace).status().expect("chown runs").success();
    let server = setup.start();
    assert_eq!(changes(&server, "since_version=git:HEAD").await, Vec::<Value>::new());
    assert_same_as_git(&server, &server.newest_version().await, "of another user");
    assert!(is_given || !rustix::process::geteuid().is_root());
}

#[tokio::test]
async fn a_huge_file_is_known_by_its_figures() {
    let setup = plain();
    let workspace = setup.workspace();
    let huge = fs::File::create(workspace.join("huge.bin")).expect("a file");
    huge.set_len(300 * 1024 * 1024).expect("a size");
    let server = setup.start();
    let first = server.version().await;
    let newest = server.newest_version().await;
    assert_eq!((&newest["partial"], newest.get("left_out")), (&json!(false), None), "{newest}");
    huge.set_len(300 * 1024 * 1024 + 1).expect("a size");
    let body = server.rest.read(&format!("/files/changes?since_version={first}")).await;
    let change = &body["changes"][0];
    assert_eq!(
        (&change["type"], &change["truncated"], &body["complete"]),
        (&json!("modified"), &json!(true), &json!(false))
    );
    assert_eq!((&change["old_size"], &change["new_size"]), (&json!(300 << 20), &json!((300 << 20) + 1)), "{change}");
    // The hash tells contents of one size apart, and the time alone is no change.
    let second = server.version().await;
    huge.write_all_at(b"x", 200 << 20).expect("a byte");
    assert_eq!(server.changed_since(&second).await, [("huge.bin".into(), "modified".into())]);
    let third = server.version().await;
    huge.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
    assert_eq!(server.changed_since(&third).await, []);
    put(&workspace, "small", "1");
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(done["skipped"], json!([{"path": "huge.bin", "reason": "too_large"}]));
    assert_eq!(done["changes"], json!([{"path": "small", "type": "deleted"}]));
    assert_eq!(huge.metadata().expect("a file").len(), (300 << 20) + 1);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 128 * 1024, "the peak is {peak} kB");
    assert!(repo::bytes_of(&setup.data_dir()).values().map(|(.., bytes)| bytes.len()).sum::<usize>() < 8 << 20);
}

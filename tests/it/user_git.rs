//! The user's own repository, which is only read, and what happens to it and to git's settings meanwhile.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use serde_json::json;

use crate::{
    baselines::{plain, put},
    support::{
        Door, Server, Setup,
        repo::{bytes_of, git, said},
        until,
    },
};

#[tokio::test]
async fn the_users_repository_stays_as_it_is_to_the_byte() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    put(&workspace, "a/b.txt", "b\n");
    put(&workspace, ".gitignore", "*.log\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "More"]);
    git(&workspace, &["gc", "-q"]);
    put(&workspace, "loose.txt", "loose\n");
    git(&workspace, &["add", "loose.txt"]);
    git(&workspace, &["commit", "-qm", "Loose"]);
    let before = bytes_of(&workspace.join(".git"));
    let mut server = setup.env("OPENCODE_MODEL", "mock/demo").start();
    let first = server.version().await;
    // Contents that the repository has already, and others.
    put(&workspace, "copy.txt", "loose\n");
    put(&workspace, "README.md", "# Other\n");
    fs::remove_file(workspace.join("a/b.txt")).expect("a file");
    for query in ["", "?since_version=git:HEAD", "?since_version=git:HEAD~1&renames=true", "?since_version=git:nothing"]
    {
        server.rest.get(&format!("/files/changes{query}")).await;
    }
    server.through(Door::Rest).get_patch(json!({"since_version": "git:HEAD~2"})).await.expect("a patch");
    server.rest.ask("Hello.").await;
    server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    server.rest.post("/session/reset", &json!({})).await.ok();
    server.version().await;
    server.restart().await;
    server.version().await;
    let after = bytes_of(&workspace.join(".git"));
    for (path, what) in &before {
        assert!(after.get(path) == Some(what), "{}", path.display());
    }
    assert_eq!(after.len(), before.len());
}

/// What the user's git throws away is not missed by versions that had it, packed and loose.
#[tokio::test]
async fn a_history_that_is_rewritten_takes_no_version_along() {
    let setup = lending().env("OPENCODE_MODEL", "mock/demo");
    let (workspace, mut server) = (setup.workspace(), setup.start());
    let first = taken_along(&server).await;
    put(&workspace, "deep/a.txt", "2\n");
    fs::remove_file(workspace.join("loose.txt")).expect("a file");
    // Known by the user's git before anybody looks, and thrown away with the rest.
    put(&workspace, "between.txt", "between\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-q", "--amend", "-m", "Between"]);
    let second = server.version().await;
    put(&workspace, "between.txt", "after\n");
    git(&workspace, &["commit", "-qa", "--amend", "-m", "Rewritten"]);
    git(&workspace, &["reflog", "expire", "--expire=now", "--all"]);
    git(&workspace, &["gc", "-q", "--prune=now"]);
    let body = server.rest.read(&format!("/files/changes?since_version={second}")).await;
    assert_eq!(body["changes"][0]["path"], "between.txt", "{body}");
    assert_eq!(body["changes"].as_array().map(Vec::len), Some(1));
    comes_back(&server, &second, &[("between.txt", Some("between\n")), ("deep/a.txt", Some("2\n"))]).await;
    comes_back(&server, &first, &[("between.txt", None), ("deep/a.txt", Some("packed\n"))]).await;
    server.restart().await;
    fs::remove_dir_all(workspace.join(".git")).expect("a repository");
    put(&workspace, "deep/a.txt", "3\n");
    comes_back(&server, &first, &[("deep/a.txt", Some("packed\n")), ("loose.txt", Some("loose\n"))]).await;
}

/// A data directory on another file system, as volumes are, has no links: it has copies.
#[tokio::test]
async fn what_cannot_be_linked_is_copied() {
    let setup = lending();
    let other = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    std::os::unix::fs::symlink(other.path(), setup.data_dir()).expect("a link");
    let workspace = setup.workspace();
    let device = |path: &Path| fs::metadata(path).expect("figures").dev();
    assert_ne!(device(other.path()), device(&workspace), "the test needs two file systems");
    let server = setup.start();
    let first = taken_along(&server).await;
    fs::remove_dir_all(workspace.join(".git")).expect("a repository");
    put(&workspace, "deep/a.txt", "2\n");
    fs::remove_file(workspace.join("loose.txt")).expect("a file");
    comes_back(&server, &first, &[("deep/a.txt", Some("packed\n")), ("loose.txt", Some("loose\n"))]).await;
}

/// A workspace with contents that git has packed, and others that it has not.
fn lending() -> Setup {
    let setup = Setup::new();
    let workspace = setup.workspace();
    put(&workspace, "deep/a.txt", "packed\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "Packed"]);
    git(&workspace, &["gc", "-q"]);
    put(&workspace, "loose.txt", "loose\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "Loose"]);
    setup
}

/// The first version, when all of it is the server's own.
async fn taken_along(server: &Server) -> String {
    let first = server.version().await;
    let objects = server.setup().data_dir().join("versions/objects.git/objects/info/alternates");
    until("the user's objects are taken along", async || objects.exists().then_some(())).await;
    first
}

async fn comes_back(server: &Server, version: &str, files: &[(&str, Option<&str>)]) {
    let done = server.rest.post("/files/revert", &json!({"version": version})).await.ok();
    assert_eq!(done["skipped"], json!([]), "{done}");
    for (path, content) in files {
        let found = fs::read_to_string(server.setup().workspace().join(path)).ok();
        assert_eq!(found.as_deref(), *content, "{path}");
    }
}

/// Settings of whoever runs the server change no answer.
#[tokio::test]
async fn nobodys_settings_change_a_patch() {
    let setup = plain();
    put(
        &setup.folder("home"),
        ".gitconfig",
        "[diff]\n\tnoprefix = true\n\tcontext = 0\n[core]\n\tattributesFile = ~/attributes\n",
    );
    put(&setup.folder("home"), "attributes", "*.md binary\n");
    put(&setup.folder("home"), ".config/git/attributes", "*.md -diff\n");
    let mut server = setup.start();
    let since = server.version().await;
    put(&setup.workspace(), "README.md", "# A project\nmore\n");
    let patch = server.through(Door::Rest).get_patch(json!({"since_version": since})).await.expect("a patch");
    let patch = String::from_utf8(patch).expect("UTF-8");
    assert!(patch.starts_with("diff --git a/README.md b/README.md\n") && patch.ends_with("+more\n"), "{patch}");
    // Nor does what is no setting at all, or a data directory that was somebody else's, take a version away.
    put(&setup.folder("home"), ".gitconfig", "[broken");
    server.restart().await;
    said(Command::new("chown").args(["-R", "12345:12345"]).arg(setup.data_dir()));
    server.restart().await;
    let done = server.rest.post("/files/revert", &json!({"version": since})).await.ok();
    assert_eq!(done["skipped"], json!([]), "{done}");
    assert_eq!(fs::read(setup.workspace().join("README.md")).expect("a file"), b"# A project\n");
}

//! Generated workspaces: text files of about 2 KB, spread over directories as in a real repository, and a fifth as many
//! more that its rules ignore.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::Result;

/// Files that belong to one directory.
const IN_ONE: usize = 16;

/// A workspace on the disk.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    pub(crate) files: Vec<PathBuf>,
}

impl Tree {
    /// Writes it.
    pub(crate) fn write(root: &Path, count: usize) -> Result<Self> {
        fs::create_dir_all(root)?;
        fs::write(root.join(".gitignore"), "*.log\n/build/\n.cache/\n")?;
        let mut files = Vec::with_capacity(count);
        for number in 0..count.div_ceil(IN_ONE) {
            let dir = root.join(format!("area_{}/part_{}/unit_{number}", number % 20, number / 20 % 25));
            fs::create_dir_all(&dir)?;
            for index in number * IN_ONE..count.min((number + 1) * IN_ONE) {
                let file = dir.join(format!("module_{index}.rs"));
                fs::write(&file, text(index))?;
                files.push(file);
            }
            // Half of what is ignored lies among the files, the other half in directories of its own.
            let build = root.join(format!("build/{}/{number}", number % 20));
            for index in 0..IN_ONE / 10 {
                fs::write(dir.join(format!("run_{index}.log")), text(index))?;
            }
            if number % 2 == 0 {
                fs::create_dir_all(&build)?;
                for index in 0..IN_ONE / 4 {
                    fs::write(build.join(format!("unit_{index}.o")), text(index))?;
                }
            }
        }
        Ok(Self { root: root.to_owned(), files })
    }

    /// Commits and packs it.
    pub(crate) fn commit(&self) -> Result<()> {
        self.git(&["init", "--quiet", "--initial-branch=main"])?;
        self.git(&["add", "--all"])?;
        let name = ["-c", "user.name=Bench", "-c", "user.email=bench@example.org"];
        // It would pack behind our back, and be in the way of the one below.
        let quiet = ["-c", "maintenance.auto=false", "-c", "gc.auto=0"];
        self.git(&[&name[..], &quiet, &["commit", "--quiet", "-m", "All"]].concat())?;
        self.git(&["gc", "--quiet"])?;
        // Not so late that git has to look twice.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        self.git(&["status", "--short"]).map(drop)
    }

    /// Runs git here, with nobody's settings. Answers what it printed.
    pub(crate) fn git(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        self.run(Command::new("git").args(arguments))
    }

    /// Runs a command here.
    pub(crate) fn run(&self, command: &mut Command) -> Result<Vec<u8>> {
        let command = command.current_dir(&self.root).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").output()?;
        if output.status.success() { Ok(output.stdout) } else { Err(format!("{command:?}: {}", output.status).into()) }
    }

    /// Gives the file of git's own rules a new time, which makes the server look at everything at its next look.
    pub(crate) fn touch_rules(&self) -> Result<()> {
        Ok(fs::write(self.root.join(".git/info/exclude"), "# none\n")?)
    }
}

/// About 2 KB of text, another one for each number.
fn text(number: usize) -> String {
    let mut text = String::new();
    let mut line = 0;
    while text.len() < 1950 {
        let word = number.wrapping_mul(2_654_435_761).wrapping_add(line * 40_503) % 100_000;
        let _ = writeln!(text, "    let value_{word} = compute({number}, {line}); // step {line} of {number}");
        line += 1;
    }
    text
}

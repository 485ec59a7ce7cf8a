//! Keys out of sight of the commands that the agent runs.
//!
//! The kernel shows a process's environment and command line, as they were when the program was started, under `/proc`
//! (`environ`, `cmdline`). A process that is not dumpable shows its environment to root alone; but in a container the
//! agent and its commands often are root. So the values are taken out of that memory: what `/proc` shows is what stands
//! there now. To start the program again without them would do the same and cost every start some milliseconds.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Most bytes of a command line and an environment; the kernel takes 6 MiB.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Blanks the values of these variables and of these flags (`--a-flag`), and makes the process undumpable. They
/// have to have been read before: from now on they are empty here, and in what this process starts. For who has one
/// thread.
pub fn hide(variables: &[&str], flags: &[String]) -> io::Result<()> {
    // Before it is undumpable: then only root may open this file, even its own.
    let blanked = blank(variables, flags);
    // Where the system has no such thing, there is no such way to read it either.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    blanked
}

fn blank(variables: &[&str], flags: &[String]) -> io::Result<()> {
    // Written as another process would, by its file: to the program these are bytes that nobody holds a reference to, as
    // the standard library makes a copy of whatever it is asked for.
    let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (arguments, environment) = places(&stat).ok_or(io::ErrorKind::Unsupported)?;
    for (place, is_line) in [(arguments, true), (environment, false)] {
        let Some(length) = place.1.checked_sub(place.0).filter(|length| *length <= MAX_BYTES) else { continue };
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        memory.read_exact_at(&mut bytes, place.0)?;
        let secrets = if is_line { secret_flags(&bytes, flags) } else { secret_variables(&bytes, variables) };
        for (start, end) in secrets {
            memory.write_all_at(&vec![0; end - start], place.0 + start as u64)?;
        }
    }
    Ok(())
}

/// From where to where, in bytes.
type Span = (usize, usize);

/// Where the arguments and the environment lie, of `/proc/self/stat`.
fn places(stat: &str) -> Option<((u64, u64), (u64, u64))> {
    // The second field, a name, may hold anything; `man proc` counts from 1, and these are 48 to 51.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok().filter(|place| *place != 0);
    Some(((field(48)?, field(49)?), (field(50)?, field(51)?)))
}

/// The values of these variables in an environment.
fn secret_variables(block: &[u8], variables: &[&str]) -> Vec<Span> {
    let mut found = Vec::new();
    for (start, item) in items(block) {
        let equals = item.iter().position(|byte| *byte == b'=');
        if let Some(equals) = equals.filter(|equals| variables.iter().any(|name| name.as_bytes() == &item[..*equals])) {
            found.push((start + equals + 1, start + item.len()));
        }
    }
    found
}

/// The values of flags in a command line: `--the-name value` and `--the-name=value`.
fn secret_flags(block: &[u8], flags: &[String]) -> Vec<Span> {
    let is_flag = |text: &[u8]| flags.iter().any(|flag| flag.as_bytes() == text);
    let (mut found, mut is_next) = (Vec::new(), false);
    for (start, item) in items(block) {
        let equals = item.iter().position(|byte| *byte == b'=');
        if is_next {
            found.push((start, start + item.len()));
        } else if let Some(equals) = equals.filter(|equals| is_flag(&item[..*equals])) {
            found.push((start + equals + 1, start + item.len()));
        }
        is_next = !is_next && is_flag(item);
    }
    found
}

/// What stands between the NULs, each with its place.
fn items(block: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    block.split(|byte| *byte == 0).scan(0, |start, item| {
        let place = *start;
        *start += item.len() + 1;
        Some((place, item))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secrets_are_blanked() {
        let names = ["A_KEY", "B_KEY"];
        let shown = |block: &[u8], spans: Vec<Span>| {
            let mut block = block.to_vec();
            for (start, end) in spans {
                block[start..end].fill(b'.');
            }
            String::from_utf8(block).expect("text").replace('\0', " ")
        };
        let environment = b"A=1\0A_KEY=abc\0A_KEYS=d\0B_KEY=\0NOT_A_KEY=e\0A_KEY";
        let spans = secret_variables(environment, &names);
        assert_eq!(shown(environment, spans), "A=1 A_KEY=... A_KEYS=d B_KEY= NOT_A_KEY=e A_KEY");
        let line = b"it\0--a-key\0abc\0--b-key=de\0--a-keys=f\0serve\0--b-key\0--a-key\0g\0--a-key";
        let spans = secret_flags(line, &["--a-key".to_owned(), "--b-key".to_owned()]);
        assert_eq!(shown(line, spans), "it --a-key ... --b-key=.. --a-keys=f serve --b-key ....... g --a-key");
    }

    #[test]
    fn places_are_counted_behind_the_name() {
        let fields: Vec<String> = (3..=52).map(|number| number.to_string()).collect();
        assert_eq!(places(&format!("7 (a) b) {}", fields.join(" "))), Some(((48, 49), (50, 51))));
        assert_eq!(places("7 (a) S 1"), None);
    }
}

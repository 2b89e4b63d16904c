//! A file of profiles, which is read twice: first to check it, then to send it.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use producers::{
    clock,
    users::{Format, Rows},
};
use schemas::{event::summary, users::UserEvent};

use crate::output;

/// The most bad rows that are named.
const NAMED_MAX: u64 = 20;
const BUFFER_BYTES: usize = 256 << 10;
/// Files beside a file that its bad rows may be written to.
const ASIDES_MAX: u32 = 1_000;

/// A file of profiles, or what came from stdin.
pub(super) struct Profiles {
    name: String,
    /// Beside which bad rows are written.
    beside: PathBuf,
    file: File,
    format: Format,
}

/// What a file has.
pub(super) struct Checked {
    /// How many rows are profiles.
    pub(super) good: usize,
    /// How many are not.
    pub(super) bad: u64,
    /// Where these are now, if they were kept.
    pub(super) aside: Option<String>,
}

impl Profiles {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let is_stdin = path.as_os_str() == "-";
        let (name, opened) = if is_stdin {
            ("stdin".to_owned(), spool(&mut io::stdin().lock()))
        } else {
            (path.display().to_string(), File::open(path))
        };
        let cannot_read = || format!("cannot read {name}");
        let file = opened.with_context(cannot_read)?;
        let first = BufReader::new(&file).fill_buf().map(<[u8]>::to_vec);
        let first = first.with_context(cannot_read)?;
        Ok(Self {
            format: Format::of(path, &first),
            beside: if is_stdin {
                "stdin".into()
            } else {
                path.to_owned()
            },
            name,
            file,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn rows<R: Read>(&self, file: R) -> Result<Rows<BufReader<R>>> {
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Rows::new(file, self.format).with_context(|| self.name.clone())
    }

    /// From the beginning.
    fn rewound(&self) -> Result<&File> {
        let mut file = &self.file;
        file.rewind()
            .with_context(|| format!("cannot read {} twice", self.name))?;
        Ok(file)
    }

    /// Reads all rows, names the bad ones and keeps them if they are wanted.
    pub(super) fn check(&self, keeps_bad: bool) -> Result<Checked> {
        let bar = bar(self.file.metadata()?.len());
        let mut rows = self.rows(bar.wrap_read(self.rewound()?))?;
        let mut aside = None;
        let (mut good, mut bad) = (0, 0);
        loop {
            let row = match rows.read().with_context(|| self.name.clone())? {
                None => break,
                Some(Ok(_)) => {
                    good += 1;
                    continue;
                }
                Some(Err(row)) => row,
            };
            bad += 1;
            if bad <= NAMED_MAX {
                let faults = summary(&row.faults);
                bar.suspend(|| output::note(format_args!("{}:{}: {faults}", self.name, row.line)));
            }
            if keeps_bad {
                let aside = match &mut aside {
                    Some(aside) => aside,
                    None => aside.insert(self.aside(rows.head())?),
                };
                aside.write(rows.row())?;
            }
        }
        bar.finish_and_clear();
        if bad > NAMED_MAX {
            let more = output::count(bad - NAMED_MAX, "bad row");
            output::note(format_args!("and {more} more"));
        }
        let aside = aside.map(Aside::finish).transpose()?;
        Ok(Checked { good, bad, aside })
    }

    /// A file beside this one that nobody has, with the head that its rows need.
    fn aside(&self, head: &[u8]) -> Result<Aside> {
        let ending = self.format.ending();
        let mut path = PathBuf::new();
        for number in 1..=ASIDES_MAX {
            let number = if number == 1 {
                String::new()
            } else {
                format!("-{number}")
            };
            path = self.beside.with_extension(format!("bad{number}.{ending}"));
            match File::create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", path.display()));
                }
                Ok(file) => {
                    let mut aside = Aside {
                        file: BufWriter::new(file),
                        name: path.display().to_string(),
                    };
                    if !head.is_empty() {
                        aside.write(head)?;
                    }
                    return Ok(aside);
                }
            }
        }
        anyhow::bail!("{} is there, and all others like it", path.display())
    }

    /// Reads the good rows once more, `good` of them; what keeps it from doing so is put into `fault`.
    pub(super) fn read_again(
        &self,
        good: usize,
        fault: Rc<RefCell<Option<String>>>,
    ) -> Result<impl ExactSizeIterator<Item = UserEvent>> {
        Ok(Again {
            rows: self.rows(self.rewound()?)?,
            left: good,
            fault,
        })
    }
}

/// Copies what can be read but once into a file that goes with the process.
fn spool(from: &mut impl Read) -> io::Result<File> {
    let name = format!("millrace-{}", clock::event_id());
    let path = std::env::temp_dir().join(name);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    // It has no name from here on, and takes room until it is closed.
    std::fs::remove_file(&path)?;
    io::copy(from, &mut file)?;
    file.rewind()?;
    Ok(file)
}

/// Drawn on a terminal only.
fn bar(bytes: u64) -> ProgressBar {
    const STYLE: &str = "{bar:40} {bytes}/{total_bytes} checked, {eta} left";
    let style = ProgressStyle::with_template(STYLE).expect("the template is well-formed");
    ProgressBar::new(bytes).with_style(style)
}

/// Where bad rows go, as they came.
struct Aside {
    file: BufWriter<File>,
    name: String,
}

impl Aside {
    fn write(&mut self, row: &[u8]) -> Result<()> {
        let written = self
            .file
            .write_all(row)
            .and_then(|()| self.file.write_all(b"\n"));
        written.with_context(|| format!("cannot write {}", self.name))
    }

    fn finish(mut self) -> Result<String> {
        let flushed = self.file.flush();
        flushed.with_context(|| format!("cannot write {}", self.name))?;
        Ok(self.name)
    }
}

/// The good rows of a file that was checked.
struct Again<R: BufRead> {
    rows: Rows<R>,
    left: usize,
    fault: Rc<RefCell<Option<String>>>,
}

impl<R: BufRead> Iterator for Again<R> {
    type Item = UserEvent;

    fn next(&mut self) -> Option<UserEvent> {
        if self.left == 0 {
            return None;
        }
        loop {
            match self.rows.read() {
                Ok(Some(Ok(set))) => {
                    self.left -= 1;
                    return Some(UserEvent::UserProfileSet(set));
                }
                // Left out, as before.
                Ok(Some(Err(_))) => {}
                Ok(None) => return self.end("it has become shorter".to_owned()),
                Err(error) => return self.end(error.to_string()),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<R: BufRead> ExactSizeIterator for Again<R> {}

impl<R: BufRead> Again<R> {
    fn end(&mut self, fault: String) -> Option<UserEvent> {
        self.left = 0;
        self.fault.replace(Some(fault));
        None
    }
}

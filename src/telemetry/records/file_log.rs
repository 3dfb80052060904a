//! A file of lines that is rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use metamcp_config::sections::RecordsFile;
use rustix::fs::OFlags;

use super::lines::Lines;
use super::writer::RecordSink;

/// The current file, and the renamed ones beside it: `PATH.1` is the youngest.
///
/// Invariant: a file ends with a complete line, unless the process or the machine died in the middle of a write, or a disk
/// took neither the rest of a line nor its removal. Such a line is ended before the next one is written.
pub struct FileLog {
    config: RecordsFile,
    file: File,
    /// Whether the file ends within a line.
    is_torn: bool,
    /// When the file could not be renamed. It grows meanwhile.
    rotation_failed: Option<Instant>,
}

/// Between two attempts to rename a file.
const ROTATION_RETRY: Duration = Duration::from_secs(10);

impl FileLog {
    /// Opens the file, and creates it if it does not exist.
    pub fn open(config: RecordsFile) -> io::Result<Self> {
        let (file, is_torn) = open(&config)?;
        Ok(Self { config, file, is_torn, rotation_failed: None })
    }

    /// Renames the file and begins another. If that fails, the file grows: records are worth more than a limit.
    fn rotate(&mut self) {
        if self.rotation_failed.is_some_and(|failed| failed.elapsed() < ROTATION_RETRY) {
            return;
        }
        let is_own = fs::metadata(&self.config.path).and_then(|path| {
            let own = self.file.metadata()?;
            Ok((path.dev(), path.ino()) == (own.dev(), own.ino()))
        });
        // Another process may have rotated the file.
        let renamed = if matches!(is_own, Ok(false)) { Ok(()) } else { self.rename() };
        let rotated = renamed.and_then(|()| open(&self.config));
        match rotated {
            Ok((file, is_torn)) => {
                (self.file, self.is_torn) = (file, is_torn);
                self.rotation_failed = None;
            }
            Err(error) => {
                if self.rotation_failed.replace(Instant::now()).is_none() {
                    let path = self.config.path.display();
                    tracing::error!(%path, %error, "cannot rotate the file of call records; it grows");
                }
            }
        }
    }

    /// Makes room for `PATH.1`, and renames the file to it.
    fn rename(&self) -> io::Result<()> {
        let free = (1..self.config.kept_max).find(|number| !self.kept(*number).exists());
        for number in (1..free.unwrap_or(self.config.kept_max)).rev() {
            fs::rename(self.kept(number), self.kept(number + 1))?;
        }
        match fs::rename(&self.config.path, self.kept(1)) {
            // Another program has renamed it, and will send SIGHUP.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    }

    fn kept(&self, number: usize) -> PathBuf {
        let mut path = self.config.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }

    /// How many bytes of `lines` fit into the file. `u64::MAX` for what is not a file, which has no size.
    fn room(&self, lines: &Lines) -> io::Result<u64> {
        let metadata = self.file.metadata()?;
        let first = lines.iter().next().map_or(0, <[u8]>::len) as u64;
        let room = (self.config.bytes_max as u64).saturating_sub(metadata.len());
        // A file takes at least one line, however long.
        let is_unlimited = !metadata.is_file() || (metadata.len() == 0 && room < first);
        Ok(if is_unlimited { u64::MAX } else { room })
    }

    /// Ends a torn line.
    fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.write_all(b"\n")?;
            self.is_torn = false;
        }
        Ok(())
    }
}

impl RecordSink for FileLog {
    fn name(&self) -> String {
        self.config.path.display().to_string()
    }

    fn write(&mut self, lines: &Lines) -> (usize, io::Result<()>) {
        let prepared = self.mend().and_then(|()| self.room(lines));
        let mut room = match prepared {
            Ok(room) => room,
            Err(error) => return (0, Err(error)),
        };
        if lines.complete_in(room).0 == 0 {
            self.rotate();
            room = self.room(lines).unwrap_or(u64::MAX);
        }
        let (count, end) = match lines.complete_in(room) {
            // The file could not be renamed.
            (0, _) => (lines.count(), lines.bytes().len()),
            fitting => fitting,
        };
        let (mut done, bytes) = (0, &lines.bytes()[..end]);
        while done < end {
            match self.file.write(&bytes[done..]) {
                Ok(0) => return (self.keep_complete(lines, done), Err(ErrorKind::WriteZero.into())),
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (self.keep_complete(lines, done), Err(error)),
            }
        }
        (count, Ok(()))
    }

    fn reopen(&mut self) {
        match open(&self.config) {
            Ok((file, is_torn)) => (self.file, self.is_torn) = (file, is_torn),
            Err(error) => {
                let path = self.config.path.display();
                tracing::error!(%path, %error, "cannot open the file of call records again; the old one is written");
            }
        }
    }
}

impl FileLog {
    /// Removes the incomplete line from the end of the file after a failed write of `done` bytes. Returns the number of
    /// complete lines.
    fn keep_complete(&mut self, lines: &Lines, done: usize) -> usize {
        let (count, end) = lines.complete_in(done as u64);
        let torn = (done - end) as u64;
        if torn > 0 {
            let length = self.file.metadata().map(|metadata| metadata.len());
            let cut = length.and_then(|length| self.file.set_len(length.saturating_sub(torn)));
            self.is_torn = cut.is_err();
        }
        count
    }
}

/// Opens a file to append to. Returns also whether it ends within a line.
fn open(config: &RecordsFile) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    // A pipe without a reader is an error, and does not wait for one.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    options.append(true).create(true).mode(config.mode).custom_flags(flags.bits().cast_signed());
    let file = options.open(&config.path)?;
    let is_torn = file.metadata()?.is_file() && ends_within_a_line(config).unwrap_or(false);
    Ok((file, is_torn))
}

fn ends_within_a_line(config: &RecordsFile) -> io::Result<bool> {
    let mut file = File::open(&config.path)?;
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

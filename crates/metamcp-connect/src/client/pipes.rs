//! Standard input and output of this process. Each has a thread of its own: a blocking read or write cannot be
//! cancelled, and must not delay the exit of the process.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// A client that speaks over pipes.
pub struct StdioClient {
    /// What the client writes, in chunks; closed at its end of file.
    pub input: mpsc::Receiver<Bytes>,
    /// Takes whole lines, each with its line feed, and writes each with one call. Closed when the client no
    /// longer reads.
    pub output: mpsc::Sender<Bytes>,
    /// Resolves when the last line was written or the pipe has failed.
    pub written: oneshot::Receiver<()>,
}

/// The capacity of a pipe on Linux.
const READ_BYTES: usize = 64 << 10;

/// Chunks that are read ahead, so that the next is there when one is done.
const CHUNKS_MAX: usize = 4;

/// Lines that wait for the client to read them; further responses wait at the endpoint.
const LINES_MAX: usize = 16;

/// Between two checks whether the client is still there, during startup.
const DISCONNECT_POLL: Duration = Duration::from_secs(1);

/// How long the client's input must have ended before startup is given up. A start that waits for no database
/// takes a tenth of it.
const DISCONNECT_GRACE: Duration = Duration::from_secs(10);

impl StdioClient {
    /// Takes the standard input and output of this process. Must be called once: two readers would split the
    /// input between them.
    pub fn of_this_process() -> io::Result<Self> {
        // Not through the standard library's buffer, so that each line is one write.
        let mut out = duplicate_stdout()?;
        let (chunks, input) = mpsc::channel(CHUNKS_MAX);
        let (output, mut lines) = mpsc::channel::<Bytes>(LINES_MAX);
        let (end, written) = oneshot::channel();
        thread::Builder::new().name("stdin".into()).spawn(move || read(&chunks))?;
        thread::Builder::new().name("stdout".into()).spawn(move || {
            while let Some(line) = lines.blocking_recv() {
                if let Err(error) = out.write_all(&line) {
                    tracing::info!(%error, "the client closed its input");
                    break;
                }
            }
            // The receiver may be gone.
            let _ = end.send(());
        })?;
        Ok(Self { input, output, written })
    }

    /// Waits until the client's input has ended, and for `DISCONNECT_GRACE` after that: messages that it wrote
    /// before are answered if that is possible. Cancel safe.
    pub async fn disconnected(&self) {
        while !self.input.is_closed() {
            sleep(DISCONNECT_POLL).await;
        }
        sleep(DISCONNECT_GRACE).await;
    }
}

/// Returns standard output as a file.
fn duplicate_stdout() -> io::Result<File> {
    #[cfg(unix)]
    let out = std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?;
    #[cfg(windows)]
    let out = std::os::windows::io::AsHandle::as_handle(&io::stdout()).try_clone_to_owned()?;
    Ok(File::from(out))
}

fn read(chunks: &mpsc::Sender<Bytes>) {
    let mut input = io::stdin().lock();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if chunks.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return tracing::warn!(%error, "cannot read standard input"),
        }
    }
}

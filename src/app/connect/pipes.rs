//! Standard input and output of this process. Each has a thread: reading and writing them cannot be given up,
//! and must not hold up the end of the process.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// Both ways to a client that speaks over pipes.
pub struct Client {
    /// What it writes, as it comes. Ends with its end.
    pub input: mpsc::Receiver<Bytes>,
    /// Takes whole lines, each with its line feed: one write each. Closed when the client reads no more.
    pub output: mpsc::Sender<Bytes>,
    /// Told when the last line was written, or none can be any more.
    pub written: oneshot::Receiver<()>,
}

/// A pipe holds as much.
const READ_BYTES: usize = 64 << 10;

/// Read and not yet looked at: enough for the next to be there when one was done with.
const CHUNKS_MAX: usize = 4;

/// Lines that wait for the client to read; behind them, answers wait where they come from.
const LINES_MAX: usize = 16;

/// Between two looks whether a client is still there, while it cannot be served yet.
const GONE_POLL: Duration = Duration::from_secs(1);

/// For a start that waits for nobody: it takes a tenth of it.
const GONE_PATIENCE: Duration = Duration::from_secs(10);

impl Client {
    /// The one that started this process. To be called once: what is read for one is lost to another.
    pub fn of_this_process() -> io::Result<Self> {
        // Without the buffer of the standard library: a line is a write.
        let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let (said, input) = mpsc::channel(CHUNKS_MAX);
        let (output, mut lines) = mpsc::channel::<Bytes>(LINES_MAX);
        let (end, written) = oneshot::channel();
        thread::Builder::new().name("stdin".into()).spawn(move || read(&said))?;
        thread::Builder::new().name("stdout".into()).spawn(move || {
            while let Some(line) = lines.blocking_recv() {
                if let Err(error) = out.write_all(&line) {
                    tracing::info!(%error, "the client reads no more");
                    break;
                }
            }
            // Nobody need be waiting.
            let _ = end.send(());
        })?;
        Ok(Self { input, output, written })
    }

    /// Waits until its input has ended, though it may not all be taken yet, and for a while longer: what it
    /// said before is to be answered if it can be. Cancel safe.
    pub async fn gone(&self) {
        while !self.input.is_closed() {
            sleep(GONE_POLL).await;
        }
        sleep(GONE_PATIENCE).await;
    }
}

fn read(said: &mpsc::Sender<Bytes>) {
    let mut input = io::stdin().lock();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        match input.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                if said.blocking_send(Bytes::copy_from_slice(&chunk[..count])).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return tracing::warn!(%error, "standard input cannot be read"),
        }
    }
}

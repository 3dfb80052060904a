//! The messages of a hand-over, over a socket pair that keeps their boundaries. The predecessor sends one that describes it,
//! then the listening sockets and its standard input; the successor answers with one when it accepts connections.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

/// What a successor must know of its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// The listening sockets that follow.
    pub sockets: usize,
    /// The limit of open files that programs begin with; `None` for no limit.
    pub program_files: Option<u64>,
    /// Whether it has disabled huge pages for itself.
    pub has_disabled_huge_pages: bool,
}

/// Why sockets could not be passed.
#[derive(Debug, thiserror::Error)]
pub enum PassingError {
    #[error("cannot pass listening sockets: {0}")]
    Io(#[from] io::Error),
    #[error("cannot take over: standard input is not a hand-over of this program; unset METAMCP_HANDOVER")]
    Malformed,
    #[error(
        "cannot take over: cannot read the hand-over from standard input: {0}; if no gateway started this one, unset METAMCP_HANDOVER"
    )]
    Receive(#[source] io::Error),
    #[error(
        "cannot take over: not all listening sockets were received; raise the limit of open files (ulimit -n)"
    )]
    Truncated,
    #[error("cannot take over: the predecessor has ended")]
    PredecessorEnded,
}

/// The first word of a description. Another version of the program may have other members: unknown ones are ignored.
const DESCRIPTION: &str = "metamcp-handover";

/// What a successor sends when it accepts connections.
const ACCEPTS: &[u8] = b"accepts";

/// Descriptors in one message: the kernel allows 253.
const DESCRIPTORS_MAX: usize = 64;

/// More sockets than a gateway has workers, which a successor does not take.
const SOCKETS_MAX: usize = 4096;

/// A description has less than 100 bytes.
const MESSAGE_BYTES_MAX: usize = 512;

/// Opens the two ends: the predecessor's and the successor's.
pub fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends everything to a successor that need not run yet: the socket pair buffers it.
pub fn send(
    to: &OwnedFd,
    description: Description,
    sockets: &[BorrowedFd<'_>],
    stdin: BorrowedFd<'_>,
) -> io::Result<()> {
    let Description { sockets: count, program_files, has_disabled_huge_pages } = description;
    let files = program_files.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let text = format!(
        "{DESCRIPTION} sockets={count} program_files={files} has_disabled_huge_pages={has_disabled_huge_pages}"
    );
    send_message(to, text.as_bytes(), &[stdin])?;
    sockets.chunks(DESCRIPTORS_MAX).try_for_each(|some| send_message(to, b"sockets", some))
}

/// Takes everything that a predecessor has sent: its description, its listening sockets and its standard input. Blocks until
/// it is there.
pub fn receive(from: &OwnedFd) -> Result<(Description, Vec<TcpListener>, OwnedFd), PassingError> {
    let (text, first) = receive_message(from)?;
    let description = str::from_utf8(&text).ok().and_then(parse).ok_or(PassingError::Malformed)?;
    let stdin = first.into_iter().next().ok_or(PassingError::Malformed)?;
    let mut sockets = Vec::with_capacity(description.sockets);
    while sockets.len() < description.sockets {
        let (_, some) = receive_message(from)?;
        if some.is_empty() || sockets.len() + some.len() > description.sockets {
            return Err(PassingError::Malformed);
        }
        sockets.extend(some.into_iter().map(TcpListener::from));
    }
    Ok((description, sockets, stdin))
}

/// Waits for the end of the predecessor, which sends nothing more. Cancel safe.
pub async fn predecessor_ended(from: &mut UnixStream) {
    let mut ignored = [0; MESSAGE_BYTES_MAX];
    while from.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
}

/// Tells the predecessor that the successor accepts connections.
pub fn send_accepts(to: &OwnedFd) -> Result<(), PassingError> {
    send_message(to, ACCEPTS, &[]).map_err(|_| PassingError::PredecessorEnded)
}

/// An end of the pair, to wait for what the other end sends or for its close.
pub fn messages(end: OwnedFd) -> io::Result<UnixStream> {
    let end = std::os::unix::net::UnixStream::from(end);
    end.set_nonblocking(true)?;
    UnixStream::from_std(end)
}

/// Reads the answer of a successor: whether it accepts connections. False at its end.
pub async fn receive_accepts(from: &mut UnixStream) -> bool {
    let mut answer = [0; ACCEPTS.len()];
    // A successor that ends before it has read everything resets the pair, which is an error here.
    from.read(&mut answer).await.is_ok_and(|count| count == ACCEPTS.len()) && answer == ACCEPTS
}

fn parse(text: &str) -> Option<Description> {
    let mut words = text.split(' ');
    if words.next() != Some(DESCRIPTION) {
        return None;
    }
    let mut description = Description { sockets: 0, program_files: None, has_disabled_huge_pages: false };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        match name {
            "sockets" => description.sockets = value.parse().ok()?,
            "program_files" => description.program_files = value.parse().ok(),
            "has_disabled_huge_pages" => description.has_disabled_huge_pages = value == "true",
            _ => {}
        }
    }
    (1..=SOCKETS_MAX).contains(&description.sockets).then_some(description)
}

fn send_message(to: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for a message"));
    }
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_message(from: &OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), PassingError> {
    receive_into(from, &mut [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))])
}

/// Receives a message whose descriptors fit into `space`.
fn receive_into(
    from: &OwnedFd,
    space: &mut [MaybeUninit<u8>],
) -> Result<(Vec<u8>, Vec<OwnedFd>), PassingError> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut control = RecvAncillaryBuffer::new(space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags));
    let received = received.map_err(|error| match error {
        Errno::CONNRESET => PassingError::PredecessorEnded,
        error => PassingError::Receive(error.into()),
    })?;
    if received.bytes == 0 {
        return Err(PassingError::PredecessorEnded);
    }
    // The kernel drops descriptors for which this process may open no more files.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(PassingError::Truncated);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(PassingError::Malformed);
    }
    bytes.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    Ok((bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[tokio::test]
    async fn sockets_are_received_as_they_were_sent() {
        let check = async |count: usize, program_files: Option<u64>| {
            let sockets: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
            let (ours, theirs) = open_pair().unwrap();
            let description = Description { sockets: count, program_files, has_disabled_huge_pages: true };
            let descriptors: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
            send(&ours, description, &descriptors, ours.as_fd()).unwrap();
            drop(sockets);
            let (received, sockets, _) = receive(&theirs).unwrap();
            assert_eq!(received, description);
            let found: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
            assert_eq!(found, addresses);
            send_accepts(&theirs).unwrap();
            drop(theirs);
            let mut ours = messages(ours).unwrap();
            assert!(receive_accepts(&mut ours).await);
            assert!(!receive_accepts(&mut ours).await);
        };
        check(1, Some(1024)).await;
        check(DESCRIPTORS_MAX, None).await;
        check(2 * DESCRIPTORS_MAX + 1, None).await;
    }

    #[test]
    fn anything_else_is_refused() {
        // Not an end of the pair: in flight, it would keep the pair open.
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let check = |text: &str, stdins: usize, sockets: usize, expected: &str| {
            let (ours, theirs) = open_pair().unwrap();
            let descriptors = |count| vec![file.as_fd(); count];
            send_message(&ours, text.as_bytes(), &descriptors(stdins)).unwrap();
            if sockets > 0 {
                send_message(&ours, b"sockets", &descriptors(sockets)).unwrap();
            }
            drop(ours);
            let error = receive(&theirs).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        let (malformed, ended) = ("is not a hand-over", "the predecessor has ended");
        check("x", 1, 1, malformed);
        check(DESCRIPTION, 1, 1, malformed);
        check("metamcp-handover sockets=0", 1, 1, malformed);
        check("metamcp-handover sockets=99999999", 1, 1, malformed);
        check("metamcp-handover sockets=1", 0, 1, malformed);
        check("metamcp-handover sockets=1", 1, 2, malformed);
        check("metamcp-handover sockets=2", 1, 1, ended);
        let long = format!("metamcp-handover sockets=1 x={}", "x".repeat(MESSAGE_BYTES_MAX));
        check(&long, 1, 1, malformed);
        // What was lost on the way is not called something else.
        let (ours, theirs) = open_pair().unwrap();
        send_message(&ours, b"sockets", &[file.as_fd(); 8]).unwrap();
        let mut small = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        assert!(matches!(receive_into(&theirs, &mut small), Err(PassingError::Truncated)));
        let error = receive(&file).unwrap_err();
        assert!(matches!(error, PassingError::Receive(_)), "{error}");
        let (ours, theirs) = open_pair().unwrap();
        drop(ours);
        receive(&theirs).unwrap_err();
        assert!(matches!(send_accepts(&theirs), Err(PassingError::PredecessorEnded)));
    }
}

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Slices of up to this many bytes in all are copied together and written at once: a copy of 4 KiB costs
/// less than the kernel's reading of a vector.
const GATHERED_BYTES_MAX: usize = 4 << 10;

/// Writes slices, small ones as one.
pub fn poll_write_gathered<W: AsyncWrite + Unpin>(
    writer: &mut W,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<std::io::Result<usize>> {
    let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
    if bytes > GATHERED_BYTES_MAX {
        return Pin::new(writer).poll_write_vectored(cx, slices);
    }
    let mut gathered = [0; GATHERED_BYTES_MAX];
    let mut end = 0;
    for slice in slices {
        gathered[end..end + slice.len()].copy_from_slice(slice);
        end += slice.len();
    }
    Pin::new(writer).poll_write(cx, &gathered[..end])
}

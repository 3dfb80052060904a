use std::cell::RefCell;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Slices of up to this many bytes in total are copied into one buffer: copying 4 KiB costs less than a vectored write.
const GATHERED_BYTES_MAX: usize = 4 << 10;

/// Writes slices: small ones in one plain write, larger ones in a vectored one.
pub fn poll_write_gathered<W: AsyncWrite + Unpin>(
    writer: &mut W,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<std::io::Result<usize>> {
    let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
    if let [slice] = slices {
        return Pin::new(writer).poll_write(cx, slice);
    }
    if bytes > GATHERED_BYTES_MAX {
        return Pin::new(writer).poll_write_vectored(cx, slices);
    }
    GATHERED.with_borrow_mut(|gathered| {
        gathered.clear();
        for slice in slices {
            gathered.extend_from_slice(slice);
        }
        Pin::new(writer).poll_write(cx, gathered)
    })
}

thread_local! {
    /// One per thread, so that it need not be allocated for each write.
    static GATHERED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(GATHERED_BYTES_MAX));
}

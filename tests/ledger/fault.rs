//! What a scripted server does wrong with a call that says so. The letters and numbers are those of the project's
//! catalogue of faults: A are servers over HTTP, B programs.

/// One misbehaviour, which the call's arguments ask for. Numbers are stored in the ledger, so the order is that of
/// [`Fault::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fault {
    None,
    /// Answers a little later.
    Slow,
    /// Resets the connection without executing.
    ResetBefore,
    /// Executes, and resets the connection after some bytes of the response (A6).
    ResetAt,
    /// Executes, and closes before the end that Content-Length promised (A7).
    ShortBody,
    /// Executes, and sends bytes after the response (A8).
    Surplus,
    /// Answers, and closes the connection without having said so (A27).
    CloseAfter,
}

impl Fault {
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Slow,
        Self::ResetBefore,
        Self::ResetAt,
        Self::ShortBody,
        Self::Surplus,
        Self::CloseAfter,
    ];

    /// The faults that are drawn, with how often.
    pub const WEIGHTS: [(Self, u64); 6] = [
        (Self::Slow, 2),
        (Self::ResetBefore, 2),
        (Self::ResetAt, 4),
        (Self::ShortBody, 2),
        (Self::Surplus, 2),
        (Self::CloseAfter, 4),
    ];

    pub fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

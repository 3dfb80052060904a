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
    /// Executes, and closes before the end that the framing promised (A7).
    ShortBody,
    /// Executes, and sends bytes after the response (A8).
    Surplus,
    /// Answers, and closes the connection without having said so (A27).
    CloseAfter,
    /// Executes, and sends an invalid chunk size within the response (A9).
    BadChunk,
    /// Executes, and breaks an event stream that has event ids; the stream can be resumed (A6, A19).
    BreakResumable,
    /// Executes, and answers under another id (A15).
    WrongId,
    /// Executes, and sends its answer twice on the stream (A15).
    TwoAnswers,
    /// Executes, and answers what is no JSON (A10, B4).
    Garbage,
    /// Executes, and answers 500 (A13).
    Status500,
    /// Does not execute, and answers 503 (A13).
    Status503,
    /// Does not execute, and answers 429 (A13).
    Status429,
    /// Does not execute, and answers 401 (A13).
    Status401,
    /// Does not execute, and redirects (A12).
    Redirect,
    /// Executes, and answers 404 although the session exists (A13).
    Status404,
    /// Executes, and never answers (A3).
    Hang,
    /// Executes, and never ends its response (A4).
    HangBody,
    /// Executes, and answers byte by byte (A5).
    Drip,
    /// A program executes, and exits without an answer (B2).
    Exit,
    /// A program floods its standard error before it answers (B5).
    FloodErrors,
}

impl Fault {
    pub const ALL: [Self; 23] = [
        Self::None,
        Self::Slow,
        Self::ResetBefore,
        Self::ResetAt,
        Self::ShortBody,
        Self::Surplus,
        Self::CloseAfter,
        Self::BadChunk,
        Self::BreakResumable,
        Self::WrongId,
        Self::TwoAnswers,
        Self::Garbage,
        Self::Status500,
        Self::Status503,
        Self::Status429,
        Self::Status401,
        Self::Redirect,
        Self::Status404,
        Self::Hang,
        Self::HangBody,
        Self::Drip,
        Self::Exit,
        Self::FloodErrors,
    ];

    /// The faults that are drawn, with how often. Those that last until a timeout are rare.
    pub const WEIGHTS: [(Self, u64); 22] = [
        (Self::Slow, 20),
        (Self::ResetBefore, 20),
        (Self::ResetAt, 40),
        (Self::ShortBody, 20),
        (Self::Surplus, 20),
        (Self::CloseAfter, 40),
        (Self::BadChunk, 10),
        (Self::BreakResumable, 20),
        (Self::WrongId, 10),
        (Self::TwoAnswers, 10),
        (Self::Garbage, 10),
        (Self::Status500, 5),
        (Self::Status503, 5),
        (Self::Status429, 5),
        (Self::Status401, 5),
        (Self::Redirect, 5),
        (Self::Status404, 10),
        (Self::Hang, 2),
        (Self::HangBody, 2),
        (Self::Drip, 5),
        (Self::Exit, 2),
        (Self::FloodErrors, 2),
    ];
}

//! The kinds of calls that clients send.

/// What a client does. Numbers are stored in the ledger, so the order is that of [`Kind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A call that is answered with JSON.
    Plain,
    /// A list of tools; executes nothing.
    List,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Plain, Self::List];

    /// How often each is drawn.
    pub const WEIGHTS: &[(Self, u64)] = &[(Self::Plain, 8), (Self::List, 1)];

    /// The same for a long run, in which most calls are cheap.
    pub const WEIGHTS_LONG: &[(Self, u64)] = &[(Self::Plain, 90), (Self::List, 2)];

    /// Whether the server executes something that must not be repeated.
    pub fn executes(self) -> bool {
        self != Self::List
    }
}

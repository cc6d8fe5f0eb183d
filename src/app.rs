//! The composition root: it alone names every room.

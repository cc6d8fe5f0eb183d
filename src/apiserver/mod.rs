//! The apiserver room.

pub mod auth;

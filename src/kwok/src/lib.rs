//! The provider that makes Node objects

//! What is found and what is left alone.

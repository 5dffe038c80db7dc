//! Contracts: names, rows and migrations.

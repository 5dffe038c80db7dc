//! The engine's configuration files: what a server has by default and the library has not.
//!
//! Written to `<data>/ollystack/` at each start, from the options. Files in `config.d` beside them are the user's, for disks and storage policies:
//! the engine lays them over, as a server does. Invariant: a statement cannot reach files or programs of this host: the
//! library lets its user do both (`file()`, dictionaries that run a command), a server does not.

use crate::options::Options;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Write them; the path of the main one.
pub(crate) fn write(folder: &Path, options: &Options) -> io::Result<PathBuf> {
    let own = folder.join("ollystack");
    fs::create_dir_all(&own)?;
    let users = own.join("users.xml");
    fs::write(&users, users_xml(options))?;
    let config = own.join("config.xml");
    fs::write(&config, config_xml(options, &users))?;
    Ok(config)
}

/// Caches are a share of the memory: the library's own defaults (5 GiB of marks alone) are for a server. No merge begins while those under way
/// take a third. A column's buffer begins small and grows: with a MiB for each from the start, as tables of less than 500 columns have it, a
/// part of spans counted a hundred MiB of memory that nobody touched, and inserts were refused for it.
fn config_xml(options: &Options, users: &Path) -> String {
    let memory = options.memory_bytes;
    let sync = u8::from(options.sync);
    format!(
        "<clickhouse>
    <users_config>{users}</users_config>
    <max_server_memory_usage>{memory}</max_server_memory_usage>
    <mark_cache_size>{mark}</mark_cache_size>
    <index_mark_cache_size>{small}</index_mark_cache_size>
    <primary_index_cache_size>{small}</primary_index_cache_size>
    <index_uncompressed_cache_size>{small}</index_uncompressed_cache_size>
    <query_condition_cache_size>{small}</query_condition_cache_size>
    <text_index_tokens_cache_size>{small}</text_index_tokens_cache_size>
    <text_index_header_cache_size>{small}</text_index_header_cache_size>
    <text_index_postings_cache_size>{small}</text_index_postings_cache_size>
    <mmap_cache_size>64</mmap_cache_size>
    <background_schedule_pool_size>4</background_schedule_pool_size>
    <merges_mutations_memory_usage_soft_limit>{merges}</merges_mutations_memory_usage_soft_limit>
    <merge_tree>
        <min_columns_to_activate_adaptive_write_buffer>1</min_columns_to_activate_adaptive_write_buffer>
        <fsync_after_insert>{sync}</fsync_after_insert>
        <fsync_part_directory>{sync}</fsync_part_directory>
    </merge_tree>
</clickhouse>
",
        users = escape(&users.display().to_string()),
        mark = memory / 16,
        merges = memory / 3,
        small = memory / 64,
    )
}

fn users_xml(options: &Options) -> String {
    // One statement may take three quarters: the rest is for inserts and merges, which must go on.
    let query_memory = options.memory_bytes / 4 * 3;
    let revoked = REVOKED.map(|grant| format!("<query>REVOKE {grant}</query>")).join("\n                ");
    format!(
        "<clickhouse>
    <profiles>
        <default>
            <max_execution_time>{seconds}</max_execution_time>
            <max_memory_usage>{query_memory}</max_memory_usage>
        </default>
    </profiles>
    <users>
        <default>
            <password></password>
            <networks><ip>::/0</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT ALL ON *.* WITH GRANT OPTION</query>
                {revoked}
            </grants>
        </default>
    </users>
    <quotas><default></default></quotas>
</clickhouse>
",
        seconds = options.query_seconds,
    )
}

const REVOKED: [&str; 6] = [
    "FILE, SQLITE ON *.*",
    "CREATE DICTIONARY ON *.*",
    "TABLE ENGINE ON File",
    "TABLE ENGINE ON Filesystem",
    "TABLE ENGINE ON SQLite",
    "TABLE ENGINE ON Executable",
];

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_cannot_break_the_file() {
        let xml = config_xml(&Options::default(), Path::new("/a<b>&c/users.xml"));
        assert!(xml.contains("<users_config>/a&lt;b&gt;&amp;c/users.xml</users_config>"));
    }
}

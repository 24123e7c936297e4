"""How RocksDB is set up: every knob that is turned, with the reason.

Rule: memory and start-up time are bounded by three numbers. Blocks, indexes, filters and memory tables are all charged
to one cache; the log that a restart must read never grows past `WAL_FACTOR` times the memory tables.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Env,
    Options,
    WriteBufferManager,
)

from qrusty_trio.storage.base import Family
from qrusty_trio.storage.rocksdb_format import family_name

MIB = 1024 * 1024
WAL_FACTOR = 1
BLOCK_BYTES = 8 * 1024
BLOOM_BITS = 10
POINT_LOOKUPS = frozenset({Family.LOCKS, Family.DEDUP})
"""Families read by exact key, often for keys that are not there: a bloom filter saves the disk read."""

MAX_RANGE_DELETIONS = 300
"""Range deletes in a memory table from which on it is flushed. Each that is added makes the next read of its family go
through all of them: 55 µs with this many, 500 µs with 4,000, which is what came together by itself."""
UNCACHE_AGGRESSIVENESS = 1000
"""How hard RocksDB looks for the blocks of a table that a compaction removed, to take them out of the cache."""
_SCRATCH = "options.tmp"
_OPTIONS = """[Version]
  rocksdb_version=9.8.4
  options_file_version=1.1

[DBOptions]

[CFOptions "default"]
  memtable_max_range_deletions={range_deletions}
  uncache_aggressiveness={uncache}

[TableOptions/BlockBasedTable "default"]
"""


@dataclass(frozen=True, slots=True)
class Tuning:
    """One store's settings: the cache shared by all families and the options that refer to it."""

    cache: Cache
    database: Options
    families: dict[str, Options]


def tune(directory: Path, *, cache_mb: int, write_buffer_mb: int, max_open_files: int) -> Tuning:
    """Settings for a store that keeps at most about `cache_mb` MiB in memory, `write_buffer_mb` of it memory tables.

    `directory` is used for a moment. Raises `OSError`.
    """
    cache = Cache(cache_mb * MIB)
    write_buffer = write_buffer_mb * MIB
    database = Options(raw_mode=True)
    database.create_missing_column_families(True)
    # One budget: memory tables of all families are charged to the block cache. No stall: a writer that waits for a
    # flush would hold the GIL; a short overdraft is better.
    database.set_write_buffer_manager(
        WriteBufferManager.new_write_buffer_manager_with_cache(write_buffer, False, cache)
    )
    # A family that is seldom written (META) would otherwise hold back the log of all the others.
    database.set_max_total_wal_size(WAL_FACTOR * write_buffer)
    # After a power cut the unsynced end of the log may have holes. Everything before the first hole is taken, the rest
    # (never answered as durable) is dropped. The stricter modes refuse to open such a log.
    database.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    database.set_max_background_jobs(2)
    # On two cores a compaction takes the processor from the loop: 0.2 % of batches of 64 took over 2 ms (4.3 ms at
    # p99.9) at equal priority, 0.05 % or less (0.6 to 1.6 ms) with compactions at low priority. Flushes stay as
    # they are: at low priority they fall behind, and the tail is back.
    environment = Env()
    environment.lower_thread_pool_cpu_priority()
    database.set_env(environment)
    database.set_max_open_files(max_open_files)
    # Flushed and compacted files reach the disk in small steps, so that a sync of the log never queues behind them.
    database.set_bytes_per_sync(MIB // 2)
    # Deleting an old file of many megabytes takes milliseconds; not on the thread that writes.
    database.set_avoid_unnecessary_blocking_io(True)
    database.set_allow_concurrent_memtable_write(False)
    database.set_skip_stats_update_on_db_open(True)
    database.set_stats_dump_period_sec(0)
    database.set_stats_persist_period_sec(0)
    database.set_keep_log_file_num(2)
    database.set_max_log_file_size(MIB)
    return Tuning(
        cache=cache,
        database=database,
        families={family_name(family): _family_options(family, cache, write_buffer, directory) for family in Family},
    )


def _base_options(directory: Path) -> Options:
    """RocksDB's defaults, and two options for which rocksdict has no setter, by way of a file of options.

    `set_options` on an open store changes them, too, but only for memory tables made from then on.
    """
    scratch = directory / _SCRATCH
    scratch.mkdir(exist_ok=True)
    try:
        text = _OPTIONS.format(range_deletions=MAX_RANGE_DELETIONS, uncache=UNCACHE_AGGRESSIVENESS)
        (scratch / "OPTIONS-000001").write_text(text)
        (scratch / "rocksdict-config.json").write_text('{"raw_mode":true,"prefix_extractors":{}}')
        return Options.load_latest(str(scratch))[1]["default"]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _family_options(family: Family, cache: Cache, write_buffer: int, directory: Path) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(BLOCK_BYTES)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    if family in POINT_LOOKUPS:
        table.set_bloom_filter(BLOOM_BITS, False)
    options = _base_options(directory)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_write_buffer_size(write_buffer // 2)
    # Writes are slowed down when so many but one wait to be flushed, as after 1,000 purges a second. Their memory is
    # bounded by the budget of all.
    options.set_max_write_buffer_number(6)
    # A stalled write would stop the loop: let reads search more files for a while instead.
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(80)
    options.set_target_file_size_base(16 * MIB)
    options.set_max_bytes_for_level_base(64 * MIB)
    return options

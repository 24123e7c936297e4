"""The RocksDB options, with the reason for each one that is set.

Rule: memory and start-up time are bounded by three numbers. Blocks, indexes, filters and memtables are all charged to
one cache. The log that a restart must read never grows past `WAL_FACTOR` times the size of the memtables.

Requirements: PER-0007, PER-0052
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
"""Families read by exact key, often for missing keys. A bloom filter saves the disk read."""

MAX_RANGE_DELETIONS = 300
"""A memtable with this many range deletes is flushed. After each new one, the next read of its family goes through all
of them: 55 µs with this many, 500 µs with 4,000, which is how many there were without a limit."""
UNCACHE_AGGRESSIVENESS = 1000
"""How thoroughly RocksDB removes the blocks of a compacted table from the cache."""
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
    """The settings of one store: the cache shared by all families, and the options that refer to it."""

    cache: Cache
    database: Options
    families: dict[str, Options]


def tune(directory: Path, *, cache_mb: int, write_buffer_mb: int, max_open_files: int) -> Tuning:
    """Settings for a store that keeps about `cache_mb` MiB in memory at most, `write_buffer_mb` MiB of it in memtables.

    Creates a temporary directory in `directory` and removes it. Raises `OSError`.

    Requirements: PER-0054
    """
    cache = Cache(cache_mb * MIB)
    write_buffer = write_buffer_mb * MIB
    database = Options(raw_mode=True)
    database.create_missing_column_families(True)
    # One budget: memtables of all families are charged to the block cache. Stalls are off: a writer that waits for a
    # flush would hold the GIL. To exceed the budget for a moment is better.
    database.set_write_buffer_manager(
        WriteBufferManager.new_write_buffer_manager_with_cache(write_buffer, False, cache)
    )
    # Otherwise a family that is rarely written (META) would keep the logs of all the others from being deleted.
    database.set_max_total_wal_size(WAL_FACTOR * write_buffer)
    # After a power cut the unsynced end of the log may have holes. Everything before the first hole is recovered; the
    # rest is dropped, which was never reported as durable. The stricter modes refuse to open such a log.
    database.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    database.set_max_background_jobs(2)
    # On two cores a compaction competes with the loop for the CPU. At equal priority, 0.2 % of batches of 64 took over
    # 2 ms (4.3 ms at p99.9). With compactions at low priority it is 0.05 % or less (0.6 to 1.6 ms at p99.9). Flushes
    # keep their priority: at a low one they fall behind and the tail is back.
    environment = Env()
    environment.lower_thread_pool_cpu_priority()
    database.set_env(environment)
    database.set_max_open_files(max_open_files)
    # Write flushed and compacted files to disk in small steps, so that a sync of the log never queues behind them.
    database.set_bytes_per_sync(MIB // 2)
    # Deleting an old file of many megabytes takes milliseconds, so keep it off the thread that writes.
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
    """RocksDB's defaults, plus two options for which rocksdict has no setter. They are loaded from an options file.

    `set_options` on an open store would change them only for memtables created from then on.

    Requirements: PER-0053
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
    # RocksDB slows writes down when all but one of this many memtables wait for a flush, as after 1,000 purges a
    # second. Their memory is bounded by the common budget.
    options.set_max_write_buffer_number(6)
    # A stalled write would block the loop. Instead, reads search more files for a while.
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(80)
    options.set_target_file_size_base(16 * MIB)
    options.set_max_bytes_for_level_base(64 * MIB)
    return options

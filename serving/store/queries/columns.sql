-- What does each view of the ledger hold, column by column?
SELECT table_name AS view, column_name AS column, data_type AS type, comment AS meaning
FROM duckdb_columns() WHERE comment IS NOT NULL AND NOT internal ORDER BY table_name, column_index;

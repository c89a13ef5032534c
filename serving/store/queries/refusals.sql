-- Which rows were refused, where, and why?
SELECT run_id, file, line, custom_id, code, reason FROM refusals ORDER BY run_id, row;

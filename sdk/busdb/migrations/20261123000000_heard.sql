-- heard tells what stands at a position of the log, of topics that the
-- caller's plugin subscribes to; no row where that is not so. A module that
-- lets goods or money through on another's word asks it in the body of a
-- SECURITY DEFINER function of its own: then its runtime role, whatever SQL
-- it sends, cannot make that word up. The caller is told by the session, so
-- that it holds inside such a body too.
CREATE FUNCTION bus.heard(p_pos bigint) RETURNS TABLE (source text, topic text, key text)
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT l.source, l.topic, l.key FROM bus.log l
    WHERE l.pos OPERATOR(pg_catalog.=) p_pos AND EXISTS (SELECT FROM bus.subscription s
      WHERE s.role OPERATOR(pg_catalog.=) session_user AND s.state OPERATOR(pg_catalog.<>) 'off'::pg_catalog.text
        AND l.topic OPERATOR(pg_catalog.=) ANY (s.topics));
END $$;

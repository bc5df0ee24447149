"""Many environments at once, on threads or in Ray workers, with the same bits as one by one."""

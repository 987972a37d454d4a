! The host of host.c in Fortran.
!   mpirun -n 2 host_f90 CHECKPOINT
program host
  use, intrinsic :: iso_fortran_env, only: int64, real64
  use boreas
  implicit none
  include "mpif.h"
  type(boreas_model) :: model
  type(boreas_state) :: state
  type(boreas_model_info) :: info
  type(boreas_variable_info) :: variable
  character(len=1024) :: checkpoint
  integer(int64), allocatable :: cells(:)
  real(real64), allocatable :: values(:)
  real(real64) :: total
  integer(int64) :: i, v, t, date
  integer :: rank, ranks, step, ierr

  call mpi_init(ierr)
  call mpi_comm_rank(MPI_COMM_WORLD, rank, ierr)
  call mpi_comm_size(MPI_COMM_WORLD, ranks, ierr)
  call get_command_argument(1, checkpoint)
  call model%open(checkpoint, comm=MPI_COMM_WORLD)
  info = model%describe()

  cells = [(i, i=int(rank, int64), info%num_cells - 1, int(ranks, int64))]
  call model%set_cells(cells)
  allocate (values(size(cells)))

  call state%open(model)
  call state%begin(boreas_date("1970-01-03"))
  do step = 0, 1 ! first all inputs, then the forcings of the new date
    do v = 0, info%num_variables - 1
      variable = model%variable(v)
      if (variable%is_computed .or. variable%role == boreas_diagnostic) cycle
      if (step > 0 .and. (variable%role /= boreas_forcing .or. variable%is_constant)) cycle
      do t = merge(info%num_input_times - 1, 0_int64, step == 0), 0, -1
        date = state%date() - t*info%step_seconds
        values = variable%mean + variable%stdev*sin(0.1_real64*cells + v + date/86400.0_real64) ! what a host computes
        call state%set(date, variable%name, values)
      end do
    end do
    call state%step()
  end do

  do v = 0, info%num_variables - 1
    variable = model%variable(v)
    if (variable%role == boreas_forcing) cycle
    call state%read(state%date(), variable%name, values)
    total = sum(values*(cells + 1)) ! tells cells apart
    call mpi_allreduce(MPI_IN_PLACE, total, 1, MPI_DOUBLE_PRECISION, MPI_SUM, MPI_COMM_WORLD, ierr)
    if (rank == 0) write (*, "(a, 1x, es16.9)") variable%name, total/info%num_cells
  end do
  call state%close()
  call model%close()
  call mpi_finalize(ierr)
end program
